//! The partitions of a run's topics, numbered through as slots.

use client::TopicView;

/// Where slots are. A slot is a partition of one of the topics.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Layout {
    pub(crate) topics: Vec<String>,
    /// Per slot, its leader's HOST:PORT when the run began.
    pub(crate) leaders: Vec<String>,
    /// Per topic, its first slot; at the end, the number of all.
    first: Vec<usize>,
    topic_of: Vec<usize>,
}

impl Layout {
    pub(crate) fn new(views: Vec<TopicView>) -> Self {
        let mut layout =
            Self { topics: Vec::new(), leaders: Vec::new(), first: vec![0], topic_of: Vec::new() };
        for (number, view) in views.into_iter().enumerate() {
            layout.topic_of.resize(layout.topic_of.len() + view.leaders.len(), number);
            layout.leaders.extend(view.leaders);
            layout.first.push(layout.leaders.len());
            layout.topics.push(view.name);
        }
        layout
    }

    pub(crate) fn slots(&self) -> usize {
        self.leaders.len()
    }

    /// First slot and number of partitions of a topic.
    pub(crate) fn span_of(&self, topic: usize) -> (usize, usize) {
        (self.first[topic], self.first[topic + 1] - self.first[topic])
    }

    /// Topic and partition of a slot.
    pub(crate) fn place(&self, slot: usize) -> (&str, i32) {
        let topic = self.topic_of[slot];
        (&self.topics[topic], (slot - self.first[topic]) as i32)
    }

    pub(crate) fn is(&self, slot: usize, topic: &str, partition: i32) -> bool {
        self.place(slot) == (topic, partition)
    }

    pub(crate) fn slot_of(&self, topic: &str, partition: i32) -> Option<usize> {
        let number = self.topics.iter().position(|name| name == topic)?;
        let (first, partitions) = self.span_of(number);
        let within = usize::try_from(partition).ok().filter(|at| *at < partitions)?;
        Some(first + within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_partitions_are_the_same_thing() {
        let view = |name: &str, count: usize| TopicView {
            name: name.to_owned(),
            leaders: vec!["a:1".to_owned(); count],
        };
        let layout = Layout::new(vec![view("x", 3), view("y", 2)]);
        assert_eq!(layout.slots(), 5);
        for slot in 0..5 {
            let (topic, partition) = layout.place(slot);
            assert_eq!(layout.slot_of(topic, partition), Some(slot));
        }
        assert_eq!(layout.place(4), ("y", 1));
        assert_eq!((layout.slot_of("y", 2), layout.slot_of("z", 0)), (None, None));
    }
}
