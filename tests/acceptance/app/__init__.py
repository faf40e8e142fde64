"""A Celery app as a user has it, for tests that start real workers."""
