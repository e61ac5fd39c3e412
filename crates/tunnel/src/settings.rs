//! What one end of a connection bears.

use std::time::Duration;

use crate::window::Budget;

/// The bounds of one end of a connection.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often the other end is asked for a sign of life.
    pub ping_interval: Duration,
    /// How much longer than that the other end may be silent.
    pub ping_timeout: Duration,
    /// Streams that may be open at once.
    pub streams: usize,
    /// Bytes that a stream may have on their way to a reader that has not read yet, at first.
    pub window: u32,
    /// The same for readers that keep up, as far as `budget` lasts.
    pub max_window: u32,
    /// What all windows of a process may have grown by.
    pub budget: Budget,
    /// Bytes that wait to be written before writers are made to wait.
    pub queue: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(4),
            ping_timeout: Duration::from_secs(6),
            streams: 4096,
            window: 64 * 1024,
            max_window: 16 << 20,
            budget: Budget::new(24 << 20),
            queue: 1 << 20,
        }
    }
}
