"""Large networks a block at a time: what each reads is cached, what each loses is chosen there, nothing else is in memory."""
