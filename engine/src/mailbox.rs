//! Messages to another thread: bounded, lock-free, and the sleeping owner is woken.
//!
//! Invariants:
//! - A message is in the queue before its wake, so an owner that empties its mailbox after every
//!   [`Io::wait`](crate::io::Io::wait) misses none.
//! - After the receiver is gone no message stays in the queue: whatever it holds (a reply channel, a
//!   connection) is dropped, and its other end notices.
//!
//! Not here: what is done when a mailbox is full.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::ArrayQueue;

use crate::io::Waker;

struct Shared<T> {
    queue: ArrayQueue<T>,
    closed: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl<T> Shared<T> {
    fn drain(&self) {
        while self.queue.pop().is_some() {}
    }
}

/// Makes a mailbox for at most `capacity` messages; each one sent wakes `waker`'s owner.
///
/// # Panics
/// If `capacity` is zero.
#[must_use]
pub fn mailbox<T: Send, W: Waker>(capacity: usize, waker: W) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity),
        closed: AtomicBool::new(false),
        wake: Box::new(move || waker.wake()),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

/// The end of a mailbox that puts messages in; there may be many.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Puts a message in and wakes the owner.
    ///
    /// # Errors
    /// Gives the message back when the mailbox is full or its owner is gone.
    pub fn send(&self, message: T) -> Result<(), T> {
        if self.is_closed() {
            return Err(message);
        }
        self.shared.queue.push(message)?;
        // Pairs with the fence in the receiver's drop: either it sees the message when it drains,
        // or it is seen here as gone.
        fence(Ordering::SeqCst);
        if self.is_closed() {
            self.shared.drain();
        } else {
            (self.shared.wake)();
        }
        Ok(())
    }

    /// Wakes the owner without a message.
    pub fn wake(&self) {
        (self.shared.wake)();
    }

    /// Whether the owner is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("queued", &self.shared.queue.len()).finish()
    }
}

/// The end of a mailbox that takes messages out; there is one.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// The oldest message, or `None` when there is none.
    pub fn recv(&self) -> Option<T> {
        self.shared.queue.pop()
    }

    /// Whether there is nothing to take out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.shared.drain();
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("queued", &self.shared.queue.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread::{self, Thread};

    use super::*;

    #[derive(Clone, Default)]
    struct Counter(Arc<AtomicUsize>);

    impl Waker for Counter {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[derive(Clone)]
    struct Unparker(Thread);

    impl Waker for Unparker {
        fn wake(&self) {
            self.0.unpark();
        }
    }

    #[test]
    fn keeps_order_and_wakes_once_a_message() {
        let wakes = Counter::default();
        let (sender, receiver) = mailbox(4, wakes.clone());
        for number in 0..3 {
            sender.send(number).unwrap();
        }
        assert_eq!(wakes.0.load(Ordering::SeqCst), 3);
        assert_eq!(
            [receiver.recv(), receiver.recv(), receiver.recv()],
            [Some(0), Some(1), Some(2)]
        );
        assert!(receiver.is_empty() && receiver.recv().is_none());
    }

    #[test]
    fn full_mailbox_gives_the_message_back() {
        let (sender, receiver) = mailbox(1, Counter::default());
        sender.send("first").unwrap();
        assert_eq!(sender.send("second"), Err("second"));
        assert_eq!(receiver.recv(), Some("first"));
        sender.send("third").unwrap();
    }

    #[test]
    fn messages_die_with_the_receiver() {
        let (sender, receiver) = mailbox(4, Counter::default());
        let held = Arc::new(());
        sender.send(Arc::clone(&held)).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(sender.is_closed());
        assert!(sender.send(Arc::clone(&held)).is_err());
    }

    #[test]
    fn no_message_is_left_behind_by_a_race_with_the_receivers_end() {
        for _ in 0..if cfg!(miri) { 5 } else { 200 } {
            let held = Arc::new(());
            let (sender, receiver) = mailbox(64, Counter::default());
            let message = Arc::clone(&held);
            let other = sender.clone();
            let racer = thread::spawn(move || while other.send(Arc::clone(&message)).is_ok() {});
            drop(receiver);
            racer.join().unwrap();
            assert_eq!(Arc::strong_count(&held), 1);
            drop(sender);
        }
    }

    #[test]
    fn a_parked_owner_gets_all_messages_of_many_senders() {
        const MESSAGES: u32 = if cfg!(miri) { 10 } else { 500 };
        let (sender, receiver) = mailbox(8, Unparker(thread::current()));
        let senders: Vec<_> = (0..4_u32)
            .map(|id| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for number in 0..MESSAGES {
                        let mut message = (id, number);
                        while let Err(back) = sender.send(message) {
                            message = back;
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; 4];
        while next != [MESSAGES; 4] {
            while let Some((id, number)) = receiver.recv() {
                let slot = &mut next[usize::try_from(id).unwrap()];
                assert_eq!(*slot, number);
                *slot += 1;
            }
            if next != [MESSAGES; 4] {
                thread::park();
            }
        }
        for sender in senders {
            sender.join().unwrap();
        }
    }
}
