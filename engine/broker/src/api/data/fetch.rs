//! Path: hot. Fetch 4-18: v7 sessions (KIP-227), v9 epochs, v12 flexible, v13 topic ids.
//!
//! Each shard reads the partitions it owns into a share; records are the log's own memory, sent
//! beside the response head. A fetch that finds too little leaves its token with the partitions; when a
//! HighWatermark moves its shard reads its part again, and no other does.

use crate::api::data::list_offsets::READ_COMMITTED;
use crate::fetching::fetch_sessions::Part;
use crate::fetching::share::{Entry, FetchShare};
use crate::network::answer::Outcome;
use crate::network::request::Request;
use crate::observe::logging::remedy;
use crate::observe::stages::Stage;
use crate::shard::requests::{OpenRequest, Stale, Token};
use crate::shard::shard::{Message, Shard};
use metadata::image::MetadataImage;
use model::{ErrorCode, Offset, TopicPartition};
use runtime::buffer::SharedBytes;
use runtime::{clock, timer};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::Read;
use wire::fetch::{
    AbortedTransaction, FetchHead, FetchPartition, FetchRequest, FetchResult, put_response,
};
use wire::{ApiKey, WireError, header};

const MAX_WAIT_MS: i32 = 5 * 60 * 1000;
/// As long as a fetch waits for which there is no memory to wait in: it keeps others from theirs.
const SHORT_WAIT_MS: i32 = 500;

/// How a share is to be read.
#[derive(Clone, Copy)]
struct Reading {
    token: Token,
    bytes_max: usize,
    /// Leave the token with partitions that have nothing more.
    wait: bool,
}

pub(crate) async fn handle(shard: &Rc<Shard>, request: &Request) -> Result<Outcome, WireError> {
    let fetch = FetchRequest::read(request.body(), request.version)?;
    if fetch.replica_id >= 0 {
        return Ok(Outcome::Close("a client posed as a follower (replica id set)".to_owned()));
    }
    let part = match shard.fetch_sessions.begin(&fetch, request.version) {
        Ok(part) => part,
        Err(error) => {
            let mut share = shard.take_share();
            let head = FetchHead { error, session_id: 0, told: None };
            let outcome = respond(shard, request, &fetch, head, None, &mut share);
            shard.give_back_shares([share]);
            return Ok(outcome);
        }
    };
    let Part::Goes(id) = part else { return Ok(serve(shard, request, &fetch, part).await) };
    // What the session stands for is served as if it had been asked in full.
    let payload = shard.encode_head(|out| {
        shard.fetch_sessions.put_full_request(out, request.version, id, &fetch);
    });
    let request = Request { payload, body_at: 0, ..request.clone() };
    let fetch = FetchRequest::read(request.body(), request.version)?;
    Ok(serve(shard, &request, &fetch, part).await)
}

async fn serve(
    shard: &Rc<Shard>,
    request: &Request,
    fetch: &FetchRequest<'_>,
    part: Part,
) -> Outcome {
    let wait_max_ms = if request.may_wait { MAX_WAIT_MS } else { SHORT_WAIT_MS };
    let wait_ms = fetch.max_wait_ms.clamp(0, wait_max_ms) as u64;
    let deadline = clock::now() + Duration::from_millis(wait_ms);
    let open = shard.requests.open(0);
    let mut share = shard.take_share();
    let mut moved = None;
    let bytes_asked = usize::try_from(fetch.max_bytes).unwrap_or(0);
    // Of what was read; from the answer on it is the connection's.
    let held = shard.answer_memory.hold();
    let mut stale = Stale { own: true, others: true };
    loop {
        let late = wait_ms == 0 || clock::now() >= deadline;
        if stale != Stale::default() {
            let granted = shard.answer_memory.grant(bytes_asked);
            held.set(0);
            let reading = Reading { token: open.token, bytes_max: granted.bytes(), wait: !late };
            gather(shard, request, fetch, &open, reading, stale, &mut share).await;
        }
        let bytes = share.bytes + share.others.iter().map(|other| other.bytes).sum::<usize>();
        held.set(bytes);
        let failed = share.failed || share.others.iter().any(|other| other.failed);
        if late || failed || bytes as i64 >= i64::from(fetch.min_bytes) {
            break;
        }
        if share.others.iter().any(|other| other.is_refreshed) {
            // It brought too little, and its shard would not tell of more.
            stale = Stale { own: true, others: true };
            continue;
        }
        let Some((at, again)) = timer::before(Some(deadline), open.until_moved()).await else {
            // Nothing moved since it was read.
            break;
        };
        (moved, stale) = (Some(at), again);
        while let Some(other) = open.take_share() {
            shard.give_back_shares(share.put(other));
        }
    }
    share.trim(bytes_asked);
    let head = FetchHead { error: ErrorCode::None, session_id: 0, told: None };
    let outcome = respond(shard, request, fetch, head, Some(part), &mut share);
    if let Some(moved) = moved {
        shard.stages().ended(Stage::FetchWakeUp, moved);
    }
    shard.give_back_shares([share]);
    outcome
}

/// Reads what is stale of the request's partitions: here, and on the shards that own the rest.
async fn gather(
    shard: &Rc<Shard>,
    request: &Request,
    fetch: &FetchRequest<'_>,
    open: &OpenRequest<'_>,
    reading: Reading,
    stale: Stale,
    share: &mut FetchShare,
) {
    if stale.others {
        shard.give_back_shares(share.others.drain(..));
    }
    share.clear_own();
    let image = shard.image();
    let mut owners = 0u64;
    for (index, asked) in fetch.partitions().enumerate() {
        match image.resolve(asked.topic, asked.partition) {
            Ok((_, id)) => owners |= 1 << (shard.owner_of(id) % 64),
            Err(error) => share.push(index as u32, FetchResult::refused(error), 0),
        }
    }
    let involved = owners.count_ones().max(1) as usize;
    let reading = Reading { bytes_max: reading.bytes_max / involved, ..reading };
    let mut others = 0usize;
    for to in (0..shard.mailbox.shards()).filter(|to| *to != shard.id()) {
        if stale.others && owners & 1 << (to % 64) != 0 {
            let mut theirs = shard.take_share_to_send();
            theirs.asked = Some((reading.bytes_max, reading.wait));
            let (frame, image) = (request.clone(), Arc::clone(&image));
            let sent = clock::now();
            let message = Message::Fetch { frame, image, token: open.token, share: theirs, sent };
            shard.mailbox.send(to, message);
            others += 1;
        }
    }
    if owners & 1 << (shard.id() % 64) != 0 && !read_cached(shard, &image, fetch, reading, share) {
        read_with_disk(shard, &image, fetch, reading, share).await;
    }
    while others > 0 {
        let other = open.next_share().await;
        // One that has answered may have something newer before the last one has answered.
        others -= usize::from(!other.is_refreshed);
        shard.give_back_shares(share.put(other));
    }
}

/// Reads the partitions this shard owns for another shard's fetch, and sends the share back.
pub(crate) fn read_owned(
    shard: &Rc<Shard>,
    request: Request,
    image: Arc<MetadataImage>,
    token: Token,
    mut share: Box<FetchShare>,
) {
    let (bytes_max, wait) = share.asked.take().expect("the sender says what it wants");
    shard.give_back_shares(share.others.drain(..));
    share.from = shard.id();
    shard.parked_fetches.unpark(token);
    let reading = Reading { token, bytes_max, wait };
    let all_cached = {
        let fetch = FetchRequest::read(request.body(), request.version)
            .expect("the sending shard has read it");
        read_cached(shard, &image, &fetch, reading, &mut share)
    };
    let to = usize::from(token.shard);
    if all_cached {
        if wait && share.bytes == 0 {
            shard.parked_fetches.park(&request, image, token, bytes_max);
        }
        shard.mailbox.send(to, Message::Fetched { token, share });
        return;
    }
    let shard = Rc::clone(shard);
    runtime::spawn(async move {
        let fetch = FetchRequest::read(request.body(), request.version)
            .expect("the sending shard has read it");
        read_with_disk(&shard, &image, &fetch, reading, &mut share).await;
        shard.mailbox.send(to, Message::Fetched { token, share });
    });
}

/// Reads parked fetches again, one after the other, when their partitions move.
pub(crate) async fn refresh_for_ever(shard: Rc<Shard>) {
    loop {
        let (token, at) = shard.parked_fetches.next_due().await;
        let mut share = shard.take_share();
        (share.from, share.is_refreshed) = (shard.id(), true);
        let read = shard.parked_fetches.with(token, |parked| {
            let reading = Reading { token, bytes_max: parked.bytes_max, wait: false };
            let fetch = FetchRequest::read(parked.body(), parked.version)
                .expect("it was read before it was parked");
            read_cached(&shard, &parked.image, &fetch, reading, &mut share)
        });
        let to = usize::from(token.shard);
        match read {
            Some(true) => shard.mailbox.send(to, Message::Refreshed { token, share, at }),
            // On disk already, or the slot was used again meanwhile: its own shard knows what to do.
            Some(false) | None => {
                shard.give_back_shares([share]);
                shard.mailbox.send(to, Message::Moved { token, at });
            }
        }
    }
}

/// Reads owned partitions from memory; false (and nothing kept of them) if the disk is needed.
fn read_cached(
    shard: &Shard,
    image: &MetadataImage,
    fetch: &FetchRequest<'_>,
    reading: Reading,
    share: &mut FetchShare,
) -> bool {
    let (entries_before, pieces_before, bytes_before) =
        (share.entries.len(), share.pieces.len(), share.bytes);
    let aborted_before = share.aborted.len();
    for (index, asked) in fetch.partitions().enumerate() {
        let Some((id, slot)) = owned(shard, image, &asked) else { continue };
        let first_piece = share.pieces.len();
        let Some(slot) = slot else {
            share.push(index as u32, FetchResult::refused(shard.why_absent(id)), first_piece);
            continue;
        };
        let (result, below) = begin(&slot, &asked, fetch.isolation_level == READ_COMMITTED);
        if result.error == ErrorCode::None
            && let Some(bytes_max) = budget(&asked, reading, share)
        {
            let offset = Offset(asked.fetch_offset);
            match slot.log.read_cached(offset, bytes_max, below, &mut share.pieces) {
                Read::Bytes(_) => {}
                Read::Miss => {
                    share.entries.truncate(entries_before);
                    share.aborted.truncate(aborted_before);
                    share.pieces.truncate(pieces_before);
                    share.bytes = bytes_before;
                    share.failed = share.entries.iter().any(|e| e.result.error != ErrorCode::None);
                    return false;
                }
            }
            share.keep_within(first_piece, bytes_max);
        }
        finish(share, &slot, fetch, reading, index as u32, result, first_piece);
    }
    true
}

/// As `read_cached`, reading from disk what is not in memory.
async fn read_with_disk(
    shard: &Shard,
    image: &MetadataImage,
    fetch: &FetchRequest<'_>,
    reading: Reading,
    share: &mut FetchShare,
) {
    for (index, asked) in fetch.partitions().enumerate() {
        let Some((id, slot)) = owned(shard, image, &asked) else { continue };
        let first_piece = share.pieces.len();
        let Some(slot) = slot else {
            share.push(index as u32, FetchResult::refused(shard.why_absent(id)), first_piece);
            continue;
        };
        let (mut result, below) = begin(&slot, &asked, fetch.isolation_level == READ_COMMITTED);
        if result.error == ErrorCode::None
            && let Some(bytes_max) = budget(&asked, reading, share)
        {
            let offset = Offset(asked.fetch_offset);
            if slot.log.read_cached(offset, bytes_max, below, &mut share.pieces) == Read::Miss
                && let Err(error) =
                    slot.log.read_disk(offset, bytes_max, below, &mut share.pieces).await
            {
                slot.complain(&format!(
                    "read at offset {offset} failed: {error}{}",
                    remedy(&error)
                ));
                result = FetchResult::refused(ErrorCode::KafkaStorageError);
            }
            share.keep_within(first_piece, bytes_max);
        }
        finish(share, &slot, fetch, reading, index as u32, result, first_piece);
    }
}

type Slot = Rc<crate::partitions::partition_slot::PartitionSlot>;

fn owned(
    shard: &Shard,
    image: &MetadataImage,
    asked: &FetchPartition<'_>,
) -> Option<(TopicPartition, Option<Slot>)> {
    let (_, id) = image.resolve(asked.topic, asked.partition).ok()?;
    (shard.owner_of(id) == shard.id()).then(|| (id, shard.slot(id)))
}

/// Asks the leader: the error, or what may be read below.
fn begin(slot: &Slot, asked: &FetchPartition<'_>, read_committed: bool) -> (FetchResult, Offset) {
    let stable = slot.last_stable_offset();
    let leader = slot.leader.borrow();
    if slot.log.is_offline() {
        return (FetchResult::refused(ErrorCode::KafkaStorageError), Offset::ZERO);
    }
    let checked = leader.check_fetch(Offset(asked.fetch_offset), asked.current_leader_epoch);
    let result = FetchResult {
        error: checked.err().map_or(ErrorCode::None, partition::FetchError::error_code),
        high_watermark: leader.high_watermark().0,
        last_stable_offset: stable.0,
        log_start_offset: leader.log_start().0,
        records_bytes: 0,
    };
    (result, if read_committed { stable } else { leader.high_watermark() })
}

/// Bytes this partition may add; `None` once the response is full.
fn budget(asked: &FetchPartition<'_>, reading: Reading, share: &FetchShare) -> Option<usize> {
    let left = reading.bytes_max.saturating_sub(share.bytes);
    (left > 0 || share.bytes == 0)
        .then(|| left.min(usize::try_from(asked.partition_max_bytes).unwrap_or(0)))
}

fn finish(
    share: &mut FetchShare,
    slot: &Slot,
    fetch: &FetchRequest<'_>,
    reading: Reading,
    index: u32,
    result: FetchResult,
    first_piece: usize,
) {
    let is_empty = share.pieces.len() == first_piece;
    share.let_go_of_slabs(&slot.log, first_piece);
    share.push(index, result, first_piece);
    if fetch.isolation_level == READ_COMMITTED && !is_empty {
        share.tell_aborted(&slot.producers.borrow());
    }
    if reading.wait && result.error == ErrorCode::None && (is_empty || fetch.min_bytes > 1) {
        slot.wait_for_records(reading.token);
    }
}

/// What this shard read for a fetch, and what others did.
struct Parts<'a> {
    own: (&'a [Entry], &'a [SharedBytes], &'a [AbortedTransaction]),
    others: &'a [Box<FetchShare>],
}

impl<'a> Parts<'a> {
    /// The entry at a place: whose share, this shard's own being 0, and where in it.
    fn at(
        &self,
        (number, at): (u32, u32),
    ) -> Option<(&'a Entry, &'a [SharedBytes], &'a [AbortedTransaction])> {
        let (entries, pieces, aborted) = match number {
            u32::MAX => return None,
            0 => self.own,
            other => {
                let share = &self.others[other as usize - 1];
                (&*share.entries, &*share.pieces, &*share.aborted)
            }
        };
        Some((&entries[at as usize], pieces, aborted))
    }
}

/// Notes where each partition of the request was answered for.
fn put_in_order(share: &mut FetchShare, partitions: usize) {
    // A partition nobody answered for is being created or deleted just now.
    share.order.resize(partitions, (u32::MAX, 0));
    let FetchShare { entries, others, order, .. } = share;
    let mut place = |number: usize, entries: &[Entry]| {
        for (at, entry) in entries.iter().enumerate() {
            order[entry.index as usize] = (number as u32, at as u32);
        }
    };
    place(0, entries);
    others.iter().enumerate().for_each(|(at, other)| place(at + 1, &other.entries));
}

fn respond(
    shard: &Shard,
    request: &Request,
    fetch: &FetchRequest<'_>,
    mut top: FetchHead<'_>,
    part: Option<Part>,
    share: &mut FetchShare,
) -> Outcome {
    let partitions = if top.error == ErrorCode::None { fetch.partitions().count() } else { 0 };
    put_in_order(share, partitions);
    let FetchShare { entries, others, order, cuts, aborted, .. } = share;
    let (order, cuts_of) = (&*order, cuts);
    let read = Parts { own: (entries, &share.pieces, aborted), others };
    let gone = FetchResult::refused(ErrorCode::UnknownTopicOrPartition);
    let results =
        order.iter().map(|place| read.at(*place).map_or(gone, |(entry, ..)| entry.result));
    let aborted = |index: usize| {
        let found = read.at(order[index]);
        found.map_or(&[][..], |(entry, _, all)| {
            &all[entry.aborted.0 as usize..entry.aborted.1 as usize]
        })
    };
    let beside: usize = results.clone().map(|result| result.records_bytes).sum();
    let mut pieces = shard.take_pieces();
    let mut write = |top: FetchHead<'_>| {
        let head = shard.encode_head(|out| {
            header::begin_response(out, ApiKey::Fetch, request.version, request.correlation_id);
            put_response(out, request.version, fetch, top, results.clone(), aborted, |at| {
                cuts_of.push(at);
            });
            header::finish_frame(out, 0, beside);
        });
        let is_told = |index: usize| top.told.is_none_or(|told| told[index]);
        let mut from = 0;
        let told = order.iter().enumerate().filter(|(index, _)| is_told(*index));
        for ((_, place), cut) in told.zip(cuts_of.iter()) {
            let Some((entry, records, _)) = read.at(*place) else { continue };
            if entry.result.records_bytes > 0 {
                pieces.push(head.slice(from..*cut));
                from = *cut;
                let (first, last) = (entry.pieces.0 as usize, entry.pieces.1 as usize);
                pieces.extend_from_slice(&records[first..last]);
            }
        }
        pieces.push(head.slice(from..head.len()));
    };
    match part {
        Some(Part::Goes(id)) => {
            let of_session = FetchHead { session_id: id, ..top };
            let told = |told: &[bool]| write(FetchHead { told: Some(told), ..of_session });
            if !shard.fetch_sessions.tell(id, results.clone(), told) {
                // Thrown out meanwhile: all is told, and the client begins another.
                write(top);
            }
        }
        Some(Part::New) => {
            let sessions = &shard.fetch_sessions;
            top.session_id = sessions.create(fetch, request.version, results.clone());
            write(top);
        }
        Some(Part::Sessionless) | None => write(top),
    }
    Outcome::Respond(pieces)
}
