"""Journal to view model to charts to one HTML file."""
