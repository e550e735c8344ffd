"""The site as Django knows it."""

from django.apps import AppConfig


class ShopConfig(AppConfig):  # type: ignore[misc]  # Django brings no types
    """The scheduler is not started in ready(), and shop/jobs.py says why."""

    name = "shop"
