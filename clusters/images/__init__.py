"""Container images, made from Debian packages and locked wheels: no image is pulled to make one.

`debian` names and fetches the packages, `recipe` says what becomes of them, `layers` lays folders out and makes tars of
them, `archive` puts tars together to what `docker load` and `kind load image-archive` take, `builder` keeps what was
made, `delivery` hands it on.
"""
