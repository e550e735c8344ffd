"""A view of the jobs, and one that triggers them."""

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from natscron import JobNotFoundError
from shop.jobs import scheduler


def jobs(_request: HttpRequest) -> JsonResponse:
    """All jobs."""
    found = [{"id": job.id, "status": job.status, "next_run": job.next_run} for job in scheduler.list_jobs()]
    return JsonResponse({"jobs": found})


def runs(_request: HttpRequest, identity: str) -> JsonResponse:
    """The job's newest runs."""
    found = scheduler.list_runs(identity, limit=20)
    return JsonResponse({"runs": [{"run": r.run_id, "status": r.status, "result": r.result} for r in found]})


@csrf_exempt  # type: ignore[untyped-decorator]  # Django brings no types
@require_POST  # type: ignore[untyped-decorator]
def trigger(_request: HttpRequest, identity: str) -> JsonResponse:
    """Run a job now."""
    try:
        return JsonResponse({"run": scheduler.trigger(identity)}, status=202)
    except JobNotFoundError as error:
        return JsonResponse({"error": str(error)}, status=error.code)


urlpatterns = [
    path("jobs", jobs),
    path("jobs/<identity>/runs", runs),
    path("jobs/<identity>/trigger", trigger),
]
