//! Places where answers are awaited within a thread: each is given once, to whoever still waits for it.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Names one use of a place. A later use of the same place has another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnswerId(pub u64);

impl AnswerId {
    fn of(index: usize, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | index as u64)
    }

    fn index(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Answers that tasks of one thread wait for. Places are used again, so that waiting allocates nothing.
pub struct Answers<T> {
    places: RefCell<Vec<Place<T>>>,
    free: RefCell<Vec<usize>>,
}

struct Place<T> {
    generation: u32,
    is_open: bool,
    answer: Option<T>,
    waker: Option<Waker>,
}

/// Resolves with the answer; dropped before, nobody waits any more.
pub struct Awaited<'a, T> {
    answers: &'a Answers<T>,
    id: AnswerId,
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Self { places: RefCell::default(), free: RefCell::default() }
    }
}

impl<T> Answers<T> {
    /// Begins to wait for an answer, which goes to `Awaited::id`.
    pub fn open(&self) -> Awaited<'_, T> {
        let mut places = self.places.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            places.push(Place { generation: 0, is_open: false, answer: None, waker: None });
            places.len() - 1
        });
        let place = &mut places[index];
        assert!(!place.is_open && place.answer.is_none(), "a place comes empty");
        place.is_open = true;
        Awaited { answers: self, id: AnswerId::of(index, place.generation) }
    }

    /// Gives an answer. False: whoever waited for it has gone, or was given one before.
    pub fn give(&self, id: AnswerId, answer: T) -> bool {
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(id.index()) else { return false };
        if !place.is_open || place.generation != id.generation() || place.answer.is_some() {
            return false;
        }
        place.answer = Some(answer);
        if let Some(waker) = place.waker.take() {
            waker.wake();
        }
        true
    }

    /// Those that wait and were given nothing yet.
    #[must_use]
    pub fn open_ids(&self) -> Vec<AnswerId> {
        let places = self.places.borrow();
        let open = places.iter().enumerate().filter(|(_, p)| p.is_open && p.answer.is_none());
        open.map(|(index, place)| AnswerId::of(index, place.generation)).collect()
    }
}

impl<T> Awaited<'_, T> {
    /// Whom the answer is to be given to.
    #[must_use]
    pub fn id(&self) -> AnswerId {
        self.id
    }
}

impl<T> Future for Awaited<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut places = self.answers.places.borrow_mut();
        let place = &mut places[self.id.index()];
        assert_eq!(place.generation, self.id.generation(), "a place is ours until dropped");
        match place.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                if !place.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    place.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Awaited<'_, T> {
    fn drop(&mut self) {
        let mut places = self.answers.places.borrow_mut();
        let place = &mut places[self.id.index()];
        place.generation = place.generation.wrapping_add(1);
        (place.is_open, place.waker) = (false, None);
        let answer = place.answer.take();
        drop(places);
        self.answers.free.borrow_mut().push(self.id.index());
        // Only now: what it does when it goes may open another.
        drop(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    fn poll<T>(awaited: Pin<&mut Awaited<'_, T>>) -> Poll<T> {
        awaited.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn each_answer_goes_to_whoever_waits_for_it() {
        let answers = Answers::default();
        let (mut a, mut b) = (pin!(answers.open()), pin!(answers.open()));
        assert!(poll(a.as_mut()).is_pending());
        assert_eq!(answers.open_ids(), [a.id(), b.id()]);
        assert!(answers.give(b.id(), "b") && answers.give(a.id(), "a"));
        assert!(!answers.give(a.id(), "again"), "an answer is given once");
        assert!(answers.open_ids().is_empty());
        assert_eq!((poll(a.as_mut()), poll(b.as_mut())), (Poll::Ready("a"), Poll::Ready("b")));
    }

    #[test]
    fn who_has_gone_is_given_nothing_and_neither_is_who_came_after() {
        let answers = Answers::default();
        let gone = answers.open().id();
        assert!(!answers.give(gone, 1));
        let mut next = pin!(answers.open());
        assert_eq!(next.id().index(), gone.index(), "the place is used again");
        assert!(!answers.give(gone, 2), "an answer that comes late");
        assert!(poll(next.as_mut()).is_pending());
        assert!(answers.give(next.id(), 3));
        assert_eq!(poll(next.as_mut()), Poll::Ready(3));
    }
}
