//! One API server as a tower service
