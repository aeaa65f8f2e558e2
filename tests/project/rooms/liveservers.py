"""A test with a live server in another process, run by its name: it is for processes that are started by fork."""

from channels.testing import ChannelsLiveServerTestCase
from websockets.sync.client import connect

from channels_lite.layers.base import SQLiteLayer
from channels_lite.testing import own_layer
from rooms import scenarios


class OwnLayer(ChannelsLiveServerTestCase):
    layer: SQLiteLayer

    @classmethod
    def setUpClass(cls) -> None:
        cls.layer = cls.enterClassContext(own_layer())
        super().setUpClass()

    def test_browser_hears(self) -> None:
        """The server has inherited the test's own layer."""
        with connect(f"{self.live_server_ws_url}/room/", open_timeout=scenarios.PATIENCE) as browser:
            self.layer.sync.group_send("room", {"type": "told", "text": "hello"})
            assert browser.recv(timeout=scenarios.PATIENCE) == "hello"
