//! A simulated member: an embedded API server and the workload controllers that make Deployments available
