"""What `make protocol` makes of ``open_inference.proto``; imported only where gRPC is on."""
