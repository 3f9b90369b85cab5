//! A timer for what is nearly always in time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is set anew for each request and seldom rings: it stays registered with the runtime for an earlier
/// time, and is moved only when it rings too early. One for each connection, as small as it can be while it waits for
/// nothing.
#[derive(Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once it is `due`; the task is woken then, and may be woken before.
    pub(crate) fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_when_due_however_it_was_set_before() {
        let began = Instant::now();
        let mut alarm = Alarm::default();
        for (ahead, due) in [(5, 5), (90, 95), (1, 96), (30, 126)] {
            let at = Instant::now() + Duration::from_secs(ahead);
            poll_fn(|cx| alarm.poll(at, cx)).await;
            assert_eq!(began.elapsed(), Duration::from_secs(due));
        }
        // Set for later, then for earlier, as when a request's body follows an idle connection.
        let (later, sooner) = (began + Duration::from_secs(500), began + Duration::from_secs(200));
        poll_fn(|cx| {
            assert!(alarm.poll(later, cx).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| alarm.poll(sooner, cx)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(200));
    }
}
