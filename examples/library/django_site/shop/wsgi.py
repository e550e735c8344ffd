"""What a web server loads: gunicorn --workers 4 shop.wsgi, with or without --preload, or manage.py runserver."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
application = get_wsgi_application()

from shop.jobs import scheduler  # noqa: E402 - the site has to be loaded before its jobs

scheduler.start()
