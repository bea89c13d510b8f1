"""A page on this machine to look at a latent space with: what it shows, the server, and a folder without a server."""

from zprime.exploring.explorer import Explorer, pick
from zprime.exploring.server import Server
from zprime.exploring.static import KIND, write
from zprime.exploring.trying import Trials

__all__ = ["KIND", "Explorer", "Server", "Trials", "pick", "write"]
