//! The end of the process, for every task that serves: one signal, seen by all.

use tokio::sync::watch;

/// Tells all [`Drain`]s. When it is dropped they are told too.
#[derive(Debug)]
pub(crate) struct Drainer(watch::Sender<Phase>);

/// Sees the signal; clones see the same one.
#[derive(Clone, Debug)]
pub(crate) struct Drain(watch::Receiver<Phase>);

/// Whether the process goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Draining,
}

/// A signal not given yet, and who sees it.
pub(crate) fn channel() -> (Drainer, Drain) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (Drainer(sender), Drain(receiver))
}

impl Drainer {
    /// Tells every task to take no more and to end.
    pub(crate) fn begin(&self) {
        self.0.send_replace(Phase::Draining);
    }
}

impl Drain {
    /// Returns when tasks are to end, at once if they already are.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn begun(&mut self) {
        // An error says that the sender is gone, which means the same.
        let _ = self.0.wait_for(|phase| *phase == Phase::Draining).await;
    }
}
