"""The least that Django needs."""

import os
from pathlib import Path

HOME = Path(os.environ.get("SHOP_HOME", "."))
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "for a look on this machine only")
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
INSTALLED_APPS = ["shop.apps.ShopConfig"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": HOME / "shop.db"}}

# Not the same SQLite file as Django's: each writes when it wants to. On PostgreSQL it may well be the same database.
JOBS_URL = os.environ.get("JOBS_URL", f"sqlite:///{HOME}/jobs.db")
JOBS_EVERY = os.environ.get("JOBS_EVERY", "1m")
