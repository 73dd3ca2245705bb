"""Early imports of the MLflow server, against a race of its first requests.

Clients that wait for the server send their first requests at once, and each thread imports modules
on demand. A thread that maps the tables while another has imported half of them fails, and so does
every later request: the server answers 500 until it is restarted (MLflow 3.17).
"""

import sys
from contextlib import suppress

if "uvicorn" in sys.orig_argv:
    with suppress(ImportError):
        # Without Flask-WTF its import fails, but the modules with tables are imported by then.
        import mlflow.server.auth
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
