//! What other shards send: their requests' parts that are this shard's, and answers to its own.

use crate::api::data::{fetch, produce};
use crate::observe::stages::Stage;
use crate::shard::shard::{Message, Shard};
use std::rc::Rc;

/// Serves it, for ever.
pub(crate) async fn serve(shard: Rc<Shard>) {
    for received in 1u64.. {
        if received % 256 == 0 {
            // A peer that never pauses must not keep everything else here from running.
            runtime::yield_now().await;
        }
        match shard.mailbox.receive().await {
            Message::Produce { frame, image, token, proofs, sent } => {
                shard.stages().ended(Stage::ShardQueue, sent);
                produce::append_owned(&shard, frame, image, token, proofs);
            }
            Message::Produced { token, index, result } => {
                shard.requests.on_produced(token, index, result);
            }
            Message::Fetch { frame, image, token, share, sent } => {
                shard.stages().ended(Stage::ShardQueue, sent);
                fetch::read_owned(&shard, frame, image, token, share);
            }
            Message::Fetched { token, share } => {
                shard.give_back_shares(shard.requests.on_share(token, share));
            }
            Message::Refreshed { token, share, at } => {
                shard.give_back_shares(shard.requests.on_refreshed(token, share, at));
            }
            Message::Moved { token, at } => shard.requests.on_moved(token, at, true),
            Message::Call(call) => call(&shard),
        }
    }
}
