"""What goes over the network: frames, the messages in them, connections, TLS."""
