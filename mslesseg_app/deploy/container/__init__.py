"""The entry of the container images: it says what is missing before work begins.

``python -P -m mslesseg_app.deploy.container ARGUMENTS`` is ``mslesseg ARGUMENTS`` with what a
container needs besides: a home folder and caches that can be written, whatever the user id;
folders that are really mounted; a device that really computes. What stops the work ends with the
exit code that it would have ended with later; the rest is reported in lines that begin with
``mslesseg: note:``.
"""
