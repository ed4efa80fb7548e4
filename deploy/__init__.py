"""What a site runs the service with, and the checks of it. Not a part of the installed package."""
