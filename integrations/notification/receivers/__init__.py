"""The channel types of an `alertmanager.yml`, one file each."""
