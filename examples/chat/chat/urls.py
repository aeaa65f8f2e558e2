"""The pages, and the two files they load. These are templates, so that no static files need to be collected."""

from django.urls import path
from django.views.generic import TemplateView

from chat import views

urlpatterns = [
    path("", views.home, name="home"),
    path("room", views.room, name="room"),
    path("chat.css", TemplateView.as_view(template_name="chat/chat.css", content_type="text/css"), name="style"),
    path("chat.js", TemplateView.as_view(template_name="chat/chat.js", content_type="text/javascript"), name="script"),
]
