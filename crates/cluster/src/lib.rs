//! The registry of members: their clients, health, identity and shared informers
