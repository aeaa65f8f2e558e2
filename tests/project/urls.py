"""The pages."""

from django.urls import path
from rooms import views

urlpatterns = [path("say/", views.say), path("asay/", views.asay)]
