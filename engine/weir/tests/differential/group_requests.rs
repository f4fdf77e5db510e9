//! The requests of groups, their offsets, and transactions.

use crate::Side;
use crate::requests::{Asked, Generator};
use wire::messages::*;

impl Generator {
    pub(crate) fn offset_commit(&mut self) -> Asked {
        let topics = self.named(
            2,
            |g| OffsetCommitTopic {
                name: g.topic(),
                partitions: g.named(
                    2,
                    |g| OffsetCommitPartition {
                        partition_index: g.partition(),
                        committed_offset: g.pick(&[0, 5, 77, -1, -2]),
                        committed_leader_epoch: g.pick(&[-1, -1, 3]),
                        committed_metadata: {
                            let long = "m".repeat(4097);
                            [None, Some(String::new()), Some("note".to_owned()), Some(long)]
                                [g.pick(&[0, 1, 2, 2, 2, 3])]
                            .clone()
                        },
                    },
                    |p| p.partition_index.to_string(),
                ),
            },
            |topic| topic.name.clone(),
        );
        let request = OffsetCommitRequest {
            group_id: self.group(),
            generation_id: self.pick(&[-1, -1, -1, 0, 1, 5]),
            member_id: self.pick(&["", "", "", "stranger", "own"]).to_owned(),
            group_instance_id: None,
            retention_time_ms: -1,
            topics,
        };
        self.asked::<OffsetCommitRequest, OffsetCommitResponse>(
            request,
            true,
            |request, side| {
                own_member(
                    &request.group_id,
                    &mut request.member_id,
                    &mut request.generation_id,
                    side,
                );
            },
            |_, _, _| {},
        )
    }

    pub(crate) fn offset_topics(&mut self) -> Option<Vec<OffsetFetchTopic>> {
        (!self.one_in(3)).then(|| {
            let topic = |g: &mut Self| OffsetFetchTopic {
                name: g.topic(),
                partition_indexes: g.partitions(),
            };
            self.named(2, topic, |topic| topic.name.clone())
        })
    }

    pub(crate) fn offset_fetch(&mut self) -> Asked {
        let groups = self.some(2, |g| OffsetFetchGroup {
            group_id: g.group(),
            member_id: None,
            member_epoch: -1,
            topics: g.offset_topics(),
        });
        let request = OffsetFetchRequest {
            group_id: self.group(),
            topics: self.offset_topics(),
            groups,
            require_stable: self.one_in(4),
        };
        let asked = self.plain::<_, OffsetFetchResponse>(request, false);
        // Version 1 has no null.
        if asked.shown.starts_with("v1 ") { self.offset_fetch() } else { asked }
    }

    pub(crate) fn offset_delete(&mut self) -> Asked {
        let topic = |g: &mut Self| OffsetDeleteTopic {
            name: g.topic(),
            partitions: g
                .partitions()
                .into_iter()
                .map(|partition_index| OffsetDeletePartition { partition_index })
                .collect(),
        };
        let topics = self.named(2, topic, |topic| topic.name.clone());
        let request = OffsetDeleteRequest { group_id: self.group(), topics };
        self.plain::<_, OffsetDeleteResponse>(request, true)
    }

    pub(crate) fn delete_groups(&mut self) -> Asked {
        let request = DeleteGroupsRequest { groups_names: self.some(2, Self::group) };
        self.plain::<_, DeleteGroupsResponse>(request, true)
    }

    pub(crate) fn describe_groups(&mut self) -> Asked {
        let request = DescribeGroupsRequest {
            groups: self.some(3, Self::group),
            include_authorized_operations: self.one_in(3),
        };
        self.plain::<_, DescribeGroupsResponse>(request, false)
    }

    pub(crate) fn list_groups(&mut self) -> Asked {
        let states = ["Empty", "Stable", "empty", "Dead", "NoSuchState"];
        let types = ["classic", "Classic", "consumer", "nosuchtype"];
        let request = ListGroupsRequest {
            states_filter: self.some(2, |g| g.pick(&states).to_owned()),
            types_filter: self.some(2, |g| g.pick(&types).to_owned()),
        };
        self.plain::<_, ListGroupsResponse>(request, false)
    }

    pub(crate) fn find_coordinator(&mut self) -> Asked {
        let request = FindCoordinatorRequest {
            key: self.group(),
            key_type: self.pick(&[0, 0, 1, 1, 3]),
            coordinator_keys: self.some(2, Self::group),
        };
        self.plain::<_, FindCoordinatorResponse>(request, false)
    }

    pub(crate) fn join_group(&mut self) -> Asked {
        let protocol = |g: &mut Self| JoinGroupProtocol {
            name: g.pick(&["range", "roundrobin"]).to_owned(),
            metadata: vec![0, 1],
        };
        // Of one that is named twice Kafka's group never recovers.
        let mut protocols = self.named(2, protocol, |protocol| protocol.name.clone());
        protocols.truncate(self.pick(&[2, 2, 2, 2, 0]));
        let request = JoinGroupRequest {
            group_id: self.group(),
            session_timeout_ms: self.pick(&[1_800_000, 1_800_000, 1_800_000, 100, 3_000_000, -1]),
            // A rebalance waits so long for those who joined before and say nothing.
            rebalance_timeout_ms: 5_000,
            member_id: self.pick(&["", "", "own", "own", "stranger"]).to_owned(),
            group_instance_id: None,
            protocol_type: self
                .pick(&["consumer", "consumer", "consumer", "connect", ""])
                .to_owned(),
            protocols,
            reason: None,
        };
        self.asked::<JoinGroupRequest, JoinGroupResponse>(
            request,
            true,
            |request, side| {
                let mut generation = 0;
                own_member(&request.group_id, &mut request.member_id, &mut generation, side);
            },
            |answer, request, side| {
                if matches!(answer.error_code, 0 | 79) {
                    let member = (answer.member_id.clone(), answer.generation_id);
                    side.members.insert(request.group_id.clone(), member);
                }
            },
        )
    }

    pub(crate) fn sync_group(&mut self) -> Asked {
        let request = SyncGroupRequest {
            group_id: self.group(),
            generation_id: self.pick(&[-1, 1, 5]),
            member_id: self.pick(&["", "own", "own", "own", "stranger"]).to_owned(),
            group_instance_id: None,
            protocol_type: self.pick(&[None, Some("consumer"), Some("connect")]).map(str::to_owned),
            protocol_name: self.pick(&[None, Some("range"), Some("other")]).map(str::to_owned),
            assignments: vec![SyncGroupAssignment {
                member_id: "own".to_owned(),
                assignment: vec![1, 2, 3],
            }],
        };
        self.asked::<SyncGroupRequest, SyncGroupResponse>(
            request,
            true,
            |request, side| {
                let mut assigned = request.assignments[0].member_id.clone();
                let mut generation = 0;
                own_member(&request.group_id, &mut assigned, &mut generation, side);
                request.assignments[0].member_id = assigned;
                own_member(
                    &request.group_id,
                    &mut request.member_id,
                    &mut request.generation_id,
                    side,
                );
            },
            |_, _, _| {},
        )
    }

    pub(crate) fn heartbeat(&mut self) -> Asked {
        let request = HeartbeatRequest {
            group_id: self.group(),
            generation_id: self.pick(&[-1, 1, 5]),
            member_id: self.pick(&["", "own", "own", "stranger"]).to_owned(),
            group_instance_id: None,
        };
        self.asked::<HeartbeatRequest, HeartbeatResponse>(
            request,
            true,
            |request, side| {
                own_member(
                    &request.group_id,
                    &mut request.member_id,
                    &mut request.generation_id,
                    side,
                );
            },
            |_, _, _| {},
        )
    }

    pub(crate) fn leave_group(&mut self) -> Asked {
        let request = LeaveGroupRequest {
            group_id: self.group(),
            member_id: self.pick(&["", "own", "own", "stranger"]).to_owned(),
            members: self.some(2, |g| LeavingMember {
                member_id: g.pick(&["", "own", "own", "stranger"]).to_owned(),
                group_instance_id: g.one_in(5).then(|| "instance".to_owned()),
                reason: None,
            }),
        };
        self.asked::<LeaveGroupRequest, LeaveGroupResponse>(
            request,
            true,
            |request, side| {
                let mut generation = 0;
                let group = request.group_id.clone();
                own_member(&group, &mut request.member_id, &mut generation, side);
                for member in &mut request.members {
                    own_member(&group, &mut member.member_id, &mut generation, side);
                }
            },
            |_, _, _| {},
        )
    }

    pub(crate) fn transactional_id(&mut self) -> String {
        self.pick(&["t1", "t2", "t1", "t2", "unknown", ""]).to_owned()
    }

    pub(crate) fn init_producer_id(&mut self) -> Asked {
        let request = InitProducerIdRequest {
            transactional_id: self
                .pick(&[None, Some("t1"), Some("t2"), Some("t1"), Some("")])
                .map(str::to_owned),
            transaction_timeout_ms: self.pick(&[60_000, 60_000, 60_000, 0, -1, 900_001]),
            producer_id: -1,
            producer_epoch: self.pick(&[-1, -1, -1, 0]),
        };
        self.asked::<InitProducerIdRequest, InitProducerIdResponse>(
            request,
            true,
            |_, _| {},
            |answer, request, side| {
                if let (0, Some(id)) = (answer.error_code, &request.transactional_id) {
                    side.producers.insert(id.clone(), (answer.producer_id, answer.producer_epoch));
                }
            },
        )
    }

    pub(crate) fn add_partitions_to_txn(&mut self) -> Asked {
        let request = AddPartitionsToTxnRequest {
            transactional_id: self.transactional_id(),
            producer_id: self.pick(&[-7, -7, -7, 12345]),
            producer_epoch: self.pick(&[-7, -7, -7, 9]),
            topics: {
                let topic = |g: &mut Self| AddPartitionsToTxnTopic {
                    name: g.topic(),
                    partitions: g.partitions(),
                };
                self.named(2, topic, |topic| topic.name.clone())
            },
        };
        self.asked::<AddPartitionsToTxnRequest, AddPartitionsToTxnResponse>(
            request,
            true,
            |r, side| {
                own_producer(&r.transactional_id, &mut r.producer_id, &mut r.producer_epoch, side)
            },
            |_, _, _| {},
        )
    }

    pub(crate) fn add_offsets_to_txn(&mut self) -> Asked {
        let request = AddOffsetsToTxnRequest {
            transactional_id: self.transactional_id(),
            producer_id: self.pick(&[-7, -7, -7, 12345]),
            producer_epoch: self.pick(&[-7, -7, -7, 9]),
            group_id: self.group(),
        };
        self.asked::<AddOffsetsToTxnRequest, AddOffsetsToTxnResponse>(
            request,
            true,
            |r, side| {
                own_producer(&r.transactional_id, &mut r.producer_id, &mut r.producer_epoch, side)
            },
            |_, _, _| {},
        )
    }

    pub(crate) fn txn_offset_commit(&mut self) -> Asked {
        let request = TxnOffsetCommitRequest {
            transactional_id: self.transactional_id(),
            group_id: self.group(),
            producer_id: self.pick(&[-7, -7, -7, 12345]),
            producer_epoch: self.pick(&[-7, -7, -7, 9]),
            generation_id: self.pick(&[-1, -1, 5]),
            member_id: self.pick(&["", "", "stranger"]).to_owned(),
            group_instance_id: None,
            topics: self.named(
                2,
                |g| TxnOffsetCommitTopic {
                    name: g.topic(),
                    partitions: g.named(
                        2,
                        |g| TxnOffsetCommitPartition {
                            partition_index: g.partition(),
                            committed_offset: g.pick(&[0, 9, -1]),
                            committed_leader_epoch: -1,
                            committed_metadata: None,
                        },
                        |p| p.partition_index.to_string(),
                    ),
                },
                |topic| topic.name.clone(),
            ),
        };
        self.asked::<TxnOffsetCommitRequest, TxnOffsetCommitResponse>(
            request,
            true,
            |r, side| {
                own_producer(&r.transactional_id, &mut r.producer_id, &mut r.producer_epoch, side)
            },
            |_, _, _| {},
        )
    }

    pub(crate) fn end_txn(&mut self) -> Asked {
        let request = EndTxnRequest {
            transactional_id: self.transactional_id(),
            producer_id: self.pick(&[-7, -7, -7, 12345]),
            producer_epoch: self.pick(&[-7, -7, -7, 9]),
            committed: self.one_in(2),
        };
        self.asked::<EndTxnRequest, EndTxnResponse>(
            request,
            true,
            |r, side| {
                own_producer(&r.transactional_id, &mut r.producer_id, &mut r.producer_epoch, side)
            },
            |answer, request, side| {
                if answer.error_code == 0 && answer.producer_id >= 0 {
                    let producer = (answer.producer_id, answer.producer_epoch);
                    side.producers.insert(request.transactional_id.clone(), producer);
                }
            },
        )
    }
}

/// The side's own member and generation for "own".
fn own_member(group: &str, member: &mut String, generation: &mut i32, side: &Side) {
    if member == "own"
        && let Some((own, current)) = side.members.get(group)
    {
        own.clone_into(member);
        if *generation == 1 {
            *generation = *current;
        }
    }
}

/// The side's own producer for -7.
fn own_producer(id: &str, producer: &mut i64, epoch: &mut i16, side: &Side) {
    let (own, current) = side.producers.get(id).copied().unwrap_or((4_000_000, 0));
    if *producer == -7 {
        *producer = own;
    }
    if *epoch == -7 {
        *epoch = current;
    }
}
