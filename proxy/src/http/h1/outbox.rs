//! Bytes on their way to the peer: as few writes as can be, and no copy of what is large.

use std::fmt;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::http::io::Io;

/// What is larger is written from where it lies.
const COPY_BYTES_MAX: usize = 4 * 1024;

/// Past this much nothing more is taken in until it has been written.
const FULL_BYTES: usize = 16 * 1024;

/// What waits to be written: small things, one large, small things; so the framing around a large part goes out with
/// it.
#[derive(Default)]
pub(super) struct Outbox {
    before: Vec<u8>,
    /// Of `before`.
    written: usize,
    large: Bytes,
    after: Vec<u8>,
}

impl Outbox {
    /// Whether it must be written before more is put in.
    pub(super) fn is_full(&self) -> bool {
        !self.large.is_empty() || self.before.len() >= FULL_BYTES
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.before.len() == self.written && self.large.is_empty() && self.after.is_empty()
    }

    /// Where small things go now.
    pub(super) fn small(&mut self) -> &mut Vec<u8> {
        if self.large.is_empty() {
            &mut self.before
        } else {
            &mut self.after
        }
    }

    /// Puts in a few bytes.
    pub(super) fn push_small(&mut self, text: fmt::Arguments<'_>) {
        // A vector takes all that is written to it.
        let _ = self.small().write_fmt(text);
    }

    /// Puts in a part of a body; only right while it is not [full](Outbox::is_full).
    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY_BYTES_MAX {
            self.small().extend_from_slice(&data);
        } else {
            self.large = data;
        }
    }

    /// Writes what waits, as far as the peer takes it; ready when nothing is left. `progress` is told of each write.
    pub(super) fn poll_send(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        mut progress: impl FnMut(),
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let before = self.before.get(self.written..).unwrap_or_default();
            let io = Pin::new(&mut *io);
            let written = if self.large.is_empty() {
                ready!(io.poll_write(cx, before))?
            } else {
                let parts = [before, &self.large, &self.after].map(IoSlice::new);
                ready!(io.poll_write_vectored(cx, &parts))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
            progress();
        }
        Pin::new(io).poll_flush(cx)
    }

    fn advance(&mut self, written: usize) {
        let of_before = written.min(self.before.len() - self.written);
        self.written += of_before;
        let of_large = (written - of_before).min(self.large.len());
        self.large.advance(of_large);
        if self.written == self.before.len() && self.large.is_empty() {
            // What is left of the last part takes the place of the first.
            std::mem::swap(&mut self.before, &mut self.after);
            self.after.clear();
            self.written = written - of_before - of_large;
        }
    }

    /// All that waits.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> Vec<u8> {
        [&self.before[self.written..], &self.large, &self.after].concat()
    }
}
