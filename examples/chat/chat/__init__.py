"""A chat with rooms, on a channel layer that needs nothing but SQLite.

How a message travels: a browser sends it over its WebSocket to ``consumers.Browser``, which sends it to the room's
group; every consumer in the room, in whichever process, passes it on to its own browser. ``/roll 2d6`` also goes to the
channel ``dice``, where ``bot.DiceBot`` waits in the process of ``manage.py runworker dice``. ``manage.py say`` speaks
into a room from a process of its own. ``manage.py chat`` starts the web server's workers and the bot together.

Nothing is stored: whoever is not in a room while something is said has missed it. There are no accounts either: a
name is what somebody typed, so an application of your own wants Django's users in its place.
"""
