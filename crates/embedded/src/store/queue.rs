//! The thread that takes writes from those who ask for them, group by group.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::shared::{Shared, wake};
use super::writer::{Outcome, Writer};
use super::{Entry, Op, WriteError};

/// What is asked of the thread.
pub(super) enum Request {
    Write { op: Op, answer: oneshot::Sender<Result<Arc<Entry>, WriteError>> },
    Meta { name: String, value: Vec<u8>, answer: oneshot::Sender<Result<(), WriteError>> },
    Close { answer: oneshot::Sender<()> },
}

impl Request {
    fn size(&self) -> usize {
        match self {
            Self::Write { op: Op::Put { draft, .. } | Op::Delete { last: draft, .. }, .. } => draft.size(),
            Self::Meta { value, .. } => value.len(),
            Self::Close { .. } => 0,
        }
    }
}

/// How many requests wait at most; beyond that the callers do.
pub(super) const QUEUE: usize = 1024;

/// How many requests one commit takes at most, which bounds how long the first of them waits.
const GROUP: usize = 512;

/// How many bytes one commit takes, but for the last request of it.
const GROUP_BYTES: usize = 8 << 20;

/// Serves requests until the last sender is gone or one asks to close.
pub(super) fn serve(mut requests: mpsc::Receiver<Request>, mut writer: Writer, shared: &Shared) {
    let mut waiting = Vec::new();
    let mut closing = Vec::new();
    while closing.is_empty() && (!waiting.is_empty() || requests.blocking_recv_many(&mut waiting, GROUP) > 0)
    {
        let mut group = Group::default();
        for request in waiting.drain(..fitting(&waiting)) {
            group.add(request);
        }
        let Group { ops, op_answers, meta, meta_answers, close_answers } = group;
        let Outcome { writes, meta, signals } = writer.commit(ops, meta);
        // Who asked may have gone away: the write stands all the same.
        for (answer, written) in op_answers.into_iter().zip(writes) {
            let _ = answer.send(written);
        }
        for answer in meta_answers {
            let _ = answer.send(meta.clone());
        }
        closing = close_answers;
        wake(&signals);
    }
    // The file is closed and unlocked before anybody is told.
    drop(writer);
    shared.close();
    for answer in closing {
        let _ = answer.send(());
    }
}

/// How many of the requests that wait are committed next.
fn fitting(waiting: &[Request]) -> usize {
    let mut bytes = 0;
    let fits = |request: &&Request| {
        let fits = bytes < GROUP_BYTES;
        bytes += request.size();
        fits
    };
    waiting.iter().take_while(fits).count()
}

/// Requests that are committed together, by kind.
#[derive(Default)]
struct Group {
    ops: Vec<Op>,
    op_answers: Vec<oneshot::Sender<Result<Arc<Entry>, WriteError>>>,
    meta: Vec<(String, Vec<u8>)>,
    meta_answers: Vec<oneshot::Sender<Result<(), WriteError>>>,
    close_answers: Vec<oneshot::Sender<()>>,
}

impl Group {
    fn add(&mut self, request: Request) {
        match request {
            Request::Write { op, answer } => {
                self.ops.push(op);
                self.op_answers.push(answer);
            }
            Request::Meta { name, value, answer } => {
                self.meta.push((name, value));
                self.meta_answers.push(answer);
            }
            Request::Close { answer } => self.close_answers.push(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Draft, Expect, Facts, Key};
    use super::*;

    fn request(size: usize) -> Request {
        let draft = Draft::new(&"x".repeat(size).into(), Facts::default());
        let op = Op::Put { key: Key::new("pods", "", "a"), expect: Expect::Absent, draft };
        Request::Write { op, answer: oneshot::channel().0 }
    }

    fn meta(size: usize) -> Request {
        Request::Meta { name: String::new(), value: vec![0; size], answer: oneshot::channel().0 }
    }

    #[test]
    fn a_group_ends_with_the_request_that_fills_it() {
        assert_eq!(fitting(&[]), 0);
        assert_eq!(fitting(&[request(1), meta(1), request(1)]), 3);
        assert_eq!(fitting(&[meta(2 * GROUP_BYTES), request(1)]), 1);
        assert_eq!(fitting(&[meta(GROUP_BYTES - 1), meta(GROUP_BYTES), meta(1)]), 2);
    }
}
