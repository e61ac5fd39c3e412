//! The control plane's HTTPS API: authenticate, authorise, dispatch to a cluster
