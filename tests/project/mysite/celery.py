"""The Celery application, with a broker in memory for tests."""

from celery import Celery

app = Celery("mysite", broker="memory://localhost/")
app.conf.broker_transport_options = {"polling_interval": 0.01}  # seconds; 1 if left out
app.conf.broker_connection_retry_on_startup = True  # Celery 5.4 warns where nothing is said
