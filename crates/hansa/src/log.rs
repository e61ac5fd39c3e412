//! Logs, on stderr, a line at a time.
//!
//! Whoever started a server may not read what it says, or may have closed the other end (`spec/kubefed.md §0 (14)`): lines wait in a bounded
//! queue for a thread that writes them, and when the queue is full they are dropped, and counted. Nothing that matters ever waits for stderr.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// How many lines may wait.
const QUEUE: usize = 1024;
/// How long the end of the process may wait for the last lines.
const FLUSH: Duration = Duration::from_millis(500);

/// The way to stderr. Clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Log {
    queue: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

enum Entry {
    Line(Vec<u8>),
    /// Everything before it has been written when this is answered.
    Flush(SyncSender<()>),
}

impl Log {
    fn to(writer: impl Write + Send + 'static) -> Self {
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = dropped.clone();
        let spawned =
            std::thread::Builder::new().name("log".to_owned()).spawn(move || write(writer, &lines, &count));
        // Without a thread nothing is logged, which is no reason not to work.
        drop(spawned);
        Self { queue, dropped }
    }

    fn push(&self, line: Vec<u8>) {
        if self.queue.try_send(Entry::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The last words of the process; waits for them to be written, but not for long.
    pub(crate) fn finish(&self, words: Option<&str>) {
        if let Some(words) = words {
            self.push(format!("{words}\n").into_bytes());
        }
        let (written, done) = sync_channel(1);
        if self.queue.try_send(Entry::Flush(written)).is_ok() {
            let _ = done.recv_timeout(FLUSH);
        }
    }
}

/// Writes lines until nobody can send any more. A writer that fails may work again, as a terminal does that was closed.
fn write(mut writer: impl Write, lines: &Receiver<Entry>, dropped: &AtomicU64) {
    loop {
        // Those that were dropped came after those that waited, so they are told of when none waits any more.
        let entry = lines.try_recv().or_else(|_| {
            tell_dropped(&mut writer, dropped);
            lines.recv()
        });
        match entry {
            Ok(Entry::Line(line)) => {
                let _ = writer.write_all(&line);
                let _ = writer.flush();
            }
            Ok(Entry::Flush(written)) => {
                tell_dropped(&mut writer, dropped);
                let _ = written.try_send(());
            }
            Err(_) => return,
        }
    }
}

fn tell_dropped(writer: &mut impl Write, dropped: &AtomicU64) {
    let missed = dropped.swap(0, Ordering::Relaxed);
    if missed > 0 {
        let _ = writeln!(writer, "({missed} lines were dropped: whoever reads this was too slow)");
        let _ = writer.flush();
    }
}

/// One event on its way.
pub(crate) struct Line<'a>(&'a Log);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Begins to log what `filter` says; `RUST_LOG` says otherwise.
pub(crate) fn begin(filter: &str) -> Log {
    let log = Log::to(io::stderr());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log.clone())
        .with_ansi(io::stderr().is_terminal())
        .init();
    log
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;

    /// A reader that takes nothing until it is told to, as a full pipe.
    struct Stuck(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_takes_nothing_costs_lines_and_not_time() {
        let (go, wait) = mpsc::channel();
        let written = Arc::new(Mutex::default());
        let log = Log::to(Stuck(wait, written.clone()));
        for number in 0..QUEUE * 3 {
            log.push(format!("line {number}\n").into_bytes());
        }
        assert!(log.dropped.load(Ordering::Relaxed) > 0);
        drop(go);
        // The queue is full until the reader has taken something, so the last words may have to be said again.
        while !String::from_utf8_lossy(&written.lock().unwrap()).contains("the end\n") {
            log.finish(Some("the end"));
        }
        log.finish(None);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("line 0\nline 1\n"), "{text}");
        assert!(text.contains("lines were dropped"), "{text}");
    }

    #[test]
    fn a_reader_that_is_gone_is_no_reason_to_end() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let log = Log::to(Gone);
        writeln!(log.make_writer(), "x").unwrap();
        log.finish(Some("y"));
        assert_eq!(log.dropped.load(Ordering::Relaxed), 0);
    }
}
