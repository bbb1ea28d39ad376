"""External engines: programs of others behind `mslesseg_app.models.registry.Engine`.

Each module here is one, and its name the ``architecture`` of its entries. It offers ``load(entry,
weights, device, *, threads, seed)`` and ``missing(entry)``. Nothing else has to know of it.
"""
