"""An engine as a service: requests share its steps."""
