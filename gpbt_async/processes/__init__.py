"""Start, hear and stop processes; never orphan one."""
