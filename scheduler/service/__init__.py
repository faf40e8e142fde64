"""The scheduler process: inbox -> decide -> commit -> publish, for the shards that it owns."""
