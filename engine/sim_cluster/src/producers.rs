//! Producers: idempotent ones, transactional ones in both of Kafka's protocols, and workers that make outputs from inputs
//! and commit how far they are in the same transaction.

use crate::peer::{Peer, one_record};
use crate::readers::seen;
use crate::shared::{IN, OUT, PLAIN, Phase, Shared, TOPICS, WORKERS, is_for_now, name_of, tick};
use model::{BatchBuilder, Compression, ErrorCode, Producer, ProducerId};
use runtime::timer;
use sim::history::{Operation, Outcome as Ended, Send, Step};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use wire::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse, AddPartitionsToTxnTopic, EndTxnRequest, EndTxnResponse,
    InitProducerIdRequest, InitProducerIdResponse, TxnOffsetCommitPartition,
    TxnOffsetCommitRequest, TxnOffsetCommitResponse, TxnOffsetCommitTopic,
};

const TIMEOUT_MS: i32 = 120;
/// Batches of so few bytes that a worker gets some of them at a time.
const WORK_BYTES: i32 = 700;

/// How a producer asks for its transactions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Each partition is announced.
    V1,
    /// A produce announces its partition, and each transaction has an epoch of its own (KIP-890).
    V2,
}

/// Why a producer does not go on.
enum Ends {
    /// Another one has its id, or it was too slow: it begins anew.
    Fenced,
    /// Its process has ended.
    Gone,
}

type Goes<T> = Result<T, Ends>;

/// See the file's first lines.
pub(crate) struct Client {
    shared: Rc<Shared>,
    peer: Peer,
    process: u64,
    /// None: idempotent only.
    transactional_id: Option<String>,
    protocol: Protocol,
    producer: Producer,
    sequences: BTreeMap<(String, i32), i32>,
    step: Step,
    /// A commit was asked for, and it is not known what became of it.
    in_doubt: bool,
}

/// What an answer's error means for who asked.
fn meaning(error: ErrorCode) -> Option<Goes<()>> {
    match error {
        ErrorCode::None => Some(Ok(())),
        ErrorCode::ProducerFenced
        | ErrorCode::InvalidProducerEpoch
        | ErrorCode::InvalidTxnState
        | ErrorCode::InvalidProducerIdMapping => Some(Err(Ends::Fenced)),
        ErrorCode::ConcurrentTransactions | ErrorCode::UnstableOffsetCommit => None,
        error if is_for_now(error) => None,
        error => panic!("a client without fault is refused by {error:?}"),
    }
}

impl Client {
    pub(crate) fn new(
        shared: &Rc<Shared>,
        process: u64,
        transactional_id: Option<String>,
        protocol: Protocol,
    ) -> Self {
        Self {
            shared: Rc::clone(shared),
            peer: Peer::new(shared),
            process,
            transactional_id,
            protocol,
            producer: Producer { id: ProducerId(-1), epoch: -1 },
            sequences: BTreeMap::new(),
            step: Step::default(),
            in_doubt: false,
        }
    }

    fn id(&self) -> &str {
        self.transactional_id.as_deref().expect("a transactional client has one")
    }

    fn is_v2(&self) -> bool {
        self.protocol == Protocol::V2
    }

    /// Does a thing again until there is an answer that says something; rests between.
    async fn until<T>(
        &mut self,
        what: &str,
        ask: impl AsyncFn(&mut Self) -> Option<(ErrorCode, T)>,
    ) -> Goes<T> {
        loop {
            self.shared.does(self.process, what);
            // A process may end between any two things that it does.
            if self.shared.is_troubled() && self.shared.one_in(400) {
                return Err(Ends::Gone);
            }
            let answer = ask(self).await;
            if let Some((error, value)) = answer {
                match meaning(error) {
                    Some(Ok(())) => return Ok(value),
                    Some(Err(Ends::Fenced)) => {
                        self.shared.count(|outcome| outcome.fenced += 1);
                        return Err(Ends::Fenced);
                    }
                    Some(Err(ends)) => return Err(ends),
                    None => self.shared.count(|outcome| outcome.refused_for_now += 1),
                }
            }
            self.shared.rest(8).await;
        }
    }

    async fn init(&mut self) -> Goes<()> {
        let asked = InitProducerIdRequest {
            transactional_id: self.transactional_id.clone(),
            transaction_timeout_ms: TIMEOUT_MS,
            ..Default::default()
        };
        let ask = async |client: &mut Self| {
            let answer: InitProducerIdResponse = client.peer.ask(&asked, 4).await?;
            let id = ProducerId(answer.producer_id);
            let producer = Producer { id, epoch: answer.producer_epoch };
            Some((ErrorCode::from_code(answer.error_code), producer))
        };
        self.producer = self.until("asks for its producer id", ask).await?;
        self.sequences.clear();
        Ok(())
    }

    /// Sends one record, again and again until it is there.
    async fn send(
        &mut self,
        topic: &str,
        partition: i32,
        input: Option<(String, i64)>,
    ) -> Goes<()> {
        let value = self.shared.next_value();
        let sequence = self.sequences.entry((topic.to_owned(), partition)).or_default();
        let mut builder = BatchBuilder::default();
        builder.begin(0);
        builder.set_producer(self.producer, *sequence, self.transactional_id.is_some());
        *sequence += 1;
        let mut bytes = value.to_be_bytes().to_vec();
        bytes.resize(8 + self.shared.below(300) as usize, value as u8);
        builder.push(0, None, Some(&bytes), &[]);
        let codec = [Compression::None, Compression::Lz4][self.shared.below(2) as usize];
        let batch = builder.finish(codec).to_vec();
        self.shared.count(|outcome| {
            outcome.sent += 1;
            outcome.outputs += u64::from(input.is_some());
        });
        let name = name_of(topic, partition);
        let send = Send { partition: name, value, offset: None, acknowledged: false, input };
        self.step.operations.push(Operation::Send(send));
        let version = if self.is_v2() { 12 } else { 11 };
        let id = self.transactional_id.clone();
        let ask = async |client: &mut Self| {
            client.peer.produce(version, id.as_deref(), -1, (topic, partition), &batch).await
        };
        let base = self.until("sends", ask).await?;
        let Some(Operation::Send(send)) = self.step.operations.last_mut() else {
            unreachable!("pushed above");
        };
        (send.offset, send.acknowledged) = (Some(base), true);
        self.shared.count(|outcome| outcome.acknowledged += 1);
        Ok(())
    }

    /// Says that a partition joins the transaction, where that is to be said.
    async fn announce(&mut self, topic: &str, partition: i32) -> Goes<()> {
        if self.is_v2() || self.transactional_id.is_none() {
            return Ok(());
        }
        let joins = AddPartitionsToTxnTopic { name: topic.to_owned(), partitions: vec![partition] };
        let asked = AddPartitionsToTxnRequest {
            transactional_id: self.id().to_owned(),
            producer_id: self.producer.id.0,
            producer_epoch: self.producer.epoch,
            topics: vec![joins],
        };
        let ask = async |client: &mut Self| {
            let answer: AddPartitionsToTxnResponse = client.peer.ask(&asked, 3).await?;
            Some((ErrorCode::from_code(answer.results[0].partitions[0].error_code), ()))
        };
        self.until("announces a partition", ask).await
    }

    async fn end(&mut self, commit: bool) -> Goes<()> {
        self.step.commit = commit.then(tick);
        self.in_doubt = commit;
        let asked = EndTxnRequest {
            transactional_id: self.id().to_owned(),
            producer_id: self.producer.id.0,
            producer_epoch: self.producer.epoch,
            committed: commit,
        };
        let version = if self.is_v2() { 5 } else { 3 };
        let ask = async |client: &mut Self| {
            let answer: EndTxnResponse = client.peer.ask(&asked, version).await?;
            let id = ProducerId(answer.producer_id);
            let next = Producer { id, epoch: answer.producer_epoch };
            Some((ErrorCode::from_code(answer.error_code), next))
        };
        let next = self.until("ends its transaction", ask).await?;
        if self.is_v2() {
            self.producer = next;
            self.sequences.clear();
        }
        self.finish_step(Some(if commit { Ended::Committed } else { Ended::Aborted }));
        Ok(())
    }

    /// Tells the history what was done since the last time.
    fn finish_step(&mut self, outcome: Option<Ended>) {
        let step = std::mem::take(&mut self.step);
        let in_doubt = std::mem::take(&mut self.in_doubt);
        if step.operations.is_empty() {
            return;
        }
        let transactional = self.transactional_id.is_some();
        let outcome = match outcome {
            _ if !transactional => Ended::Unknown,
            Some(outcome) => outcome,
            None if in_doubt => Ended::Unknown,
            None => Ended::Aborted,
        };
        self.shared.count(|counts| match outcome {
            Ended::Committed => counts.committed += 1,
            Ended::Aborted => counts.aborted += 1,
            Ended::Unknown => counts.unknown += 1,
        });
        let end = Some(tick());
        self.shared.keep(Step { process: self.process, transactional, outcome, end, ..step });
    }

    /// Produces until nothing goes wrong any more. One of two with the same id rests then.
    pub(crate) async fn produce_on(mut self) {
        while self.shared.is_troubled() {
            let ended = self.produce_until_fenced().await;
            self.finish_step(None);
            match ended {
                Ok(()) => break,
                Err(Ends::Gone) => self.peer.close(),
                // Else two of one transactional id would do nothing but fence each other.
                Err(Ends::Fenced) => self.shared.rest(100).await,
            }
        }
        self.finish_step(None);
    }

    async fn produce_until_fenced(&mut self) -> Goes<()> {
        self.init().await?;
        while self.shared.is_troubled() {
            self.step.start = Some(tick());
            let mut announced = Vec::new();
            for _ in 0..=self.shared.below(4) {
                let (topic, partitions) = match &self.transactional_id {
                    Some(_) => TOPICS[self.shared.below(2) as usize],
                    None => TOPICS[2],
                };
                // Outputs have inputs: this one writes inputs, or to where there are none.
                let topic = if topic == OUT { PLAIN } else { topic };
                let partition = self.shared.below(partitions.min(2) as u64) as i32;
                if !announced.contains(&(topic, partition)) {
                    announced.push((topic, partition));
                    self.announce(topic, partition).await?;
                }
                self.send(topic, partition, None).await?;
            }
            if self.transactional_id.is_some() {
                let commit = !self.shared.one_in(5);
                self.end(commit).await?;
            } else {
                self.finish_step(None);
            }
            self.shared.rest(6).await;
        }
        Ok(())
    }

    /// Makes outputs from the inputs of a partition, until all of them have one. Who `rests` does so only while things
    /// go wrong.
    pub(crate) async fn work_on(mut self, input: i32, rests: bool) {
        loop {
            let ended = self.work_until_fenced(input, rests).await;
            self.finish_step(None);
            match ended {
                Ok(()) => return,
                Err(Ends::Gone) => self.peer.close(),
                Err(Ends::Fenced) => self.shared.rest(100).await,
            }
        }
    }

    async fn work_until_fenced(&mut self, input: i32, rests: bool) -> Goes<()> {
        let is_over = |shared: &Shared| rests && !shared.is_troubled();
        if is_over(&self.shared) {
            return Ok(());
        }
        self.init().await?;
        while !is_over(&self.shared) {
            let from = self.committed(input).await?;
            self.shared.does(self.process, format!("looks for work from {from}"));
            let drains = self.shared.phase.get() == Phase::Draining;
            let Some(mut got) = self.peer.fetch(IN, &[(input, from)], true, WORK_BYTES).await
            else {
                self.shared.rest(10).await;
                continue;
            };
            let got = got.remove(0);
            if got.error != ErrorCode::None {
                assert!(is_for_now(got.error), "{:?}", got.error);
                self.shared.rest(10).await;
                continue;
            }
            if got.next == from {
                if drains && from == got.high_watermark {
                    return Ok(());
                }
                self.shared.rest(10).await;
                continue;
            }
            self.step.start = Some(tick());
            self.step.operations.push(Operation::Assign(vec![(name_of(IN, input), None)]));
            let records = seen(IN, &got);
            let at = Some(tick());
            self.step.operations.push(Operation::Poll { records, uncommitted: false, at });
            let mut announced = Vec::new();
            for (offset, _) in &got.records {
                let partition = (offset % i64::from(TOPICS[1].1)) as i32;
                if !announced.contains(&partition) {
                    announced.push(partition);
                    self.announce(OUT, partition).await?;
                }
                self.send(OUT, partition, Some((name_of(IN, input), *offset))).await?;
            }
            self.commit_offset(input, got.next).await?;
            let commit = !(self.shared.is_troubled() && self.shared.one_in(8));
            self.end(commit).await?;
            self.shared.rest(6).await;
        }
        Ok(())
    }

    /// How far the group is in an input partition.
    async fn committed(&mut self, input: i32) -> Goes<i64> {
        let ask = async |client: &mut Self| client.peer.committed(WORKERS, IN, input).await;
        self.until("asks where its group is", ask).await
    }

    async fn commit_offset(&mut self, input: i32, offset: i64) -> Goes<()> {
        let (producer_id, producer_epoch) = (self.producer.id.0, self.producer.epoch);
        if !self.is_v2() {
            let asked = AddOffsetsToTxnRequest {
                transactional_id: self.id().to_owned(),
                producer_id,
                producer_epoch,
                group_id: WORKERS.to_owned(),
            };
            let ask = async |client: &mut Self| {
                let answer: AddOffsetsToTxnResponse = client.peer.ask(&asked, 3).await?;
                Some((ErrorCode::from_code(answer.error_code), ()))
            };
            self.until("announces offsets", ask).await?;
        }
        let partition = TxnOffsetCommitPartition {
            partition_index: input,
            committed_offset: offset,
            ..Default::default()
        };
        let asked = TxnOffsetCommitRequest {
            transactional_id: self.id().to_owned(),
            group_id: WORKERS.to_owned(),
            producer_id,
            producer_epoch,
            topics: vec![TxnOffsetCommitTopic { name: IN.to_owned(), partitions: vec![partition] }],
            ..Default::default()
        };
        let version = if self.is_v2() { 5 } else { 3 };
        let ask = async |client: &mut Self| {
            let answer: TxnOffsetCommitResponse = client.peer.ask(&asked, version).await?;
            Some((ErrorCode::from_code(answer.topics[0].partitions[0].error_code), ()))
        };
        self.until("commits offsets", ask).await
    }
}

/// Sends without a producer id, each record once: what is acknowledged is there.
pub(crate) async fn send_plainly(shared: Rc<Shared>, process: u64, acks: i16) {
    let mut peer = Peer::new(&shared);
    while shared.is_troubled() {
        let value = shared.next_value();
        let partition = shared.below(TOPICS[2].1 as u64) as i32;
        let batch = one_record(value);
        shared.does(process, "sends plainly");
        let answer = peer.produce(9, None, acks, (PLAIN, partition), &batch).await;
        let acknowledged = answer.filter(|(error, _)| *error == ErrorCode::None);
        shared.count(|outcome| {
            outcome.sent += 1;
            outcome.acknowledged += u64::from(acknowledged.is_some());
        });
        let send = Send {
            partition: name_of(PLAIN, partition),
            value,
            offset: acknowledged.map(|(_, base)| base),
            acknowledged: acknowledged.is_some(),
            input: None,
        };
        let operations = vec![Operation::Send(send)];
        shared.keep(Step { process, operations, end: Some(tick()), ..Step::default() });
        timer::sleep(Duration::from_micros(shared.below(8_000))).await;
    }
}
