"""Load what MLflow's server would load with its first requests, in several threads at once.

A server that starts while clients wait for it gets its first requests together. Each thread then
imports what it needs, and one that maps the tables while another has imported half of them fails,
and all later ones with it: the server answers 500 until it is started again (MLflow 3.17).
"""

import sys
from contextlib import suppress

if "uvicorn" in sys.orig_argv:
    with suppress(ImportError):
        # Without Flask-WTF it refuses to be imported, but what has tables is by then.
        import mlflow.server.auth
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
