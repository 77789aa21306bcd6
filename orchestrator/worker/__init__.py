"""The worker of a cluster: `trireel worker`, and the Celery program beside it that hears the doorbell."""
