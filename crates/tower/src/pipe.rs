//! Two byte streams joined. Unlike tokio's own, a session at rest holds no buffer: most of them rest, and there are thousands.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// What is read at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// One direction.
#[derive(Default)]
struct Half {
    buffer: BytesMut,
    unflushed: bool,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The reader has ended, the writer is to be told.
    Ending,
    Ended,
}

impl Half {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + ?Sized,
        W: AsyncWrite + ?Sized,
    {
        loop {
            while !self.buffer.is_empty() {
                match ready!(to.as_mut().poll_write(cx, &self.buffer))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => self.buffer.advance(written),
                }
                self.unflushed = true;
            }
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(to.as_mut().poll_shutdown(cx))?;
                    self.state = State::Ended;
                    continue;
                }
                State::Open => {}
            }
            self.buffer.reserve(CHUNK);
            match poll_read_buf(from.as_mut(), cx, &mut self.buffer) {
                Poll::Ready(read) => {
                    if read? == 0 {
                        self.state = State::Ending;
                    }
                }
                Poll::Pending => {
                    self.buffer = BytesMut::new();
                    if self.unflushed {
                        ready!(to.as_mut().poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Carries bytes both ways until both sides have ended, or one breaks.
pub(crate) async fn join<A, B>(mut a: A, mut b: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Half::default(), Half::default());
    std::future::poll_fn(|cx| {
        let there = there.poll(cx, Pin::new(&mut a), Pin::new(&mut b))?;
        let back = back.poll(cx, Pin::new(&mut b), Pin::new(&mut a))?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn everything_arrives_in_both_directions_and_each_end_is_told_of_by_itself() {
        let ((mut caller, near), (far, mut member)) = (duplex(100), duplex(7));
        let joined = tokio::spawn(join(near, far));
        let long: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let sent = long.clone();
        let upload = async {
            caller.write_all(&sent).await.unwrap();
            caller.shutdown().await.unwrap();
            let mut answer = Vec::new();
            caller.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let serve = async {
            let mut got = Vec::new();
            // The end comes through although the other direction is open.
            member.read_to_end(&mut got).await.unwrap();
            member.write_all(b"thanks").await.unwrap();
            member.shutdown().await.unwrap();
            got
        };
        let (answer, got) = tokio::join!(upload, serve);
        assert_eq!((answer.as_slice(), got), (&b"thanks"[..], long));
        joined.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_side_that_breaks_ends_both() {
        let ((caller, near), (far, mut member)) = (duplex(8), duplex(8));
        let joined = tokio::spawn(join(near, far));
        drop(caller);
        member.write_all(b"x").await.unwrap();
        assert!(joined.await.unwrap().is_err());
        assert_eq!(member.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_rests_holds_nothing() {
        let (mut caller, near) = duplex(8);
        let (mut far, mut to) = (near, tokio::io::sink());
        let mut half = Half::default();
        caller.write_all(b"abc").await.unwrap();
        std::future::poll_fn(|cx| {
            assert!(half.poll(cx, Pin::new(&mut far), Pin::new(&mut to)).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(half.buffer.capacity(), 0);
    }
}
