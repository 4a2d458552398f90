"""What a virtual machine needs of its host, so that its workload calls global names: units and DNS, reversibly."""
