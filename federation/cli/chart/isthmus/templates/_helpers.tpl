{{/* What the templates share. fedctl renders them, too: federation/cli/chart/template.py says what they may use. */}}

{{- define "isthmus.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* Labels of every object; takes (dict "root" $ "component" NAME). */}}
{{- define "isthmus.labels" -}}
app.kubernetes.io/name: isthmus
app.kubernetes.io/part-of: isthmus
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ default .root.Chart.AppVersion .root.Values.image.tag | trunc 63 | trimSuffix "-" | trimSuffix "." | trimSuffix "_" | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{/* What selects the pods of a component. */}}
{{- define "isthmus.selector" -}}
app.kubernetes.io/part-of: isthmus
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* The ConfigMap with the settings of a component; takes (dict "root" $ "component" NAME). It is named by what is in it:
a pod that goes on with the settings that it began with finds them when it begins anew, and other settings are another pod
template. */}}
{{- define "isthmus.settings.name" -}}
isthmus-{{ .component }}-{{ include (printf "isthmus.%s.settings" .component) .root | sha256sum | trunc 10 }}
{{- end -}}

{{/* All addresses of a pod, and one of them, with a port. */}}
{{- define "isthmus.any" -}}
{{ if eq .Values.ipFamily "IPv6" }}[::]{{ else }}0.0.0.0{{ end }}
{{- end -}}

{{/* An environment variable that holds an address, as the host of HOST:PORT. */}}
{{- define "isthmus.host" -}}
{{ if eq .root.Values.ipFamily "IPv6" }}[$({{ .variable }})]{{ else }}$({{ .variable }}){{ end }}
{{- end -}}

{{/* YAML of `base` with `over` laid above it, key by key. */}}
{{- define "isthmus.merged" -}}
{{- $out := .base -}}
{{- range $key, $value := .over -}}
{{- $below := get $out $key -}}
{{- if and (kindIs "map" $value) (kindIs "map" $below) -}}
{{- $_ := set $out $key (include "isthmus.merged" (dict "base" $below "over" $value) | fromYaml) -}}
{{- else -}}
{{- $_ := set $out $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{/* The part of a pod template that all components share; takes root, component, account and values. */}}
{{- define "isthmus.pod" -}}
serviceAccountName: {{ .account }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  # Otherwise each mount would open the private files of the volume to the group, and they would be refused.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if ne .component "registry" }}
# Replicas stand on different nodes and in different zones where there are any.
topologySpreadConstraints:
  - topologyKey: kubernetes.io/hostname
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "isthmus.selector" . | nindent 8 }}
  - topologyKey: topology.kubernetes.io/zone
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "isthmus.selector" . | nindent 8 }}
{{- end }}
{{- end -}}

{{/* The part of a container that all components share. */}}
{{- define "isthmus.container" -}}
image: {{ include "isthmus.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
resources:
  {{- toYaml .values.resources | nindent 2 }}
# What it said last stands in the pod's status when it ends with an error.
terminationMessagePolicy: FallbackToLogsOnError
# It has five minutes to start: it may wait for keys, or read all of a large cluster.
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 150
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
{{- end -}}

{{/* Names that args refer to as $(NAME). */}}
{{- define "isthmus.environment" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: HOST_IP
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end -}}

{{/* How gateways and injectors reach their agent, and prove who they are. */}}
{{- define "isthmus.remote" -}}
agent:
  enrolment: [isthmus-agent.{{ .Release.Namespace }}.svc:7446]
  anchors: /etc/isthmus/trust/root.pem
  service_account_token: /var/run/secrets/isthmus/token
{{- end -}}

{{/* The volumes of what proves itself by a token of its service account. */}}
{{- define "isthmus.remote.volumes" -}}
- name: trust
  configMap: {name: isthmus-trust}
- name: token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {audience: isthmus, expirationSeconds: 3600, path: token}
{{- end -}}

{{- define "isthmus.remote.mounts" -}}
- {name: trust, mountPath: /etc/isthmus/trust, readOnly: true}
- {name: token, mountPath: /var/run/secrets/isthmus, readOnly: true}
{{- end -}}

{{/* The rules of NetworkPolicies that several components share. */}}
{{- define "isthmus.policy.metrics" -}}
{{- with .Values.networkPolicy.metricsFrom }}
- ports: [{port: metrics}]
  from:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{- define "isthmus.policy.dns" -}}
# Names: any resolver, since that of a node is not in a namespace.
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end -}}

{{- define "isthmus.policy.agent" -}}
- ports: [{port: 7445}, {port: 7446}]
  to:
    - podSelector:
        matchLabels:
          {{- include "isthmus.selector" (dict "component" "agent") | nindent 10 }}
{{- end -}}
