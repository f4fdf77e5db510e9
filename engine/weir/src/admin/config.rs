//! `weir config`.

use super::failures::{all_fine, refused};
use super::flags::{DryRun, pair};
use super::view::{Format, View, print};
use clap::{Subcommand, ValueEnum};
use client::Cluster;
use serde_json::json;
use std::collections::BTreeMap;
use wire::messages::{
    AlterConfigsResourceResponse, DescribeConfigsEntry, DescribeConfigsRequest,
    DescribeConfigsResource, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, IncrementalConfig, IncrementalConfigsResource,
};

const SET: i8 = 0;
const DELETE: i8 = 1;
const SOURCE_TOPIC: i8 = 1;
const SOURCE_DEFAULT: i8 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Topic,
    Broker,
}

impl Kind {
    fn code(self) -> i8 {
        match self {
            Self::Topic => 2,
            Self::Broker => 4,
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Settings and where each value comes from; only those that differ from the default, unless --all
    Describe {
        kind: Kind,
        /// A topic's name, or a broker's id
        name: String,
        /// Also defaults
        #[arg(long)]
        all: bool,
        /// Also what each one does
        #[arg(long)]
        documentation: bool,
    },
    /// Change settings; the others stay. Takes effect at once
    Set {
        kind: Kind,
        name: String,
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = pair)]
        settings: Vec<(String, String)>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Go back to the default
    Unset {
        kind: Kind,
        name: String,
        #[arg(required = true, value_name = "NAME")]
        settings: Vec<String>,
        #[command(flatten)]
        dry_run: DryRun,
    },
}

pub(crate) async fn run(cluster: &mut Cluster, verb: Verb, format: Format) -> Result<(), String> {
    match verb {
        Verb::Describe { kind, name, all, documentation } => {
            let mut entries = entries(cluster, kind, &name, documentation).await?;
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            let columns = ["NAME", "VALUE", "SOURCE", "READ-ONLY", "ABOUT"];
            let mut view = View::new(&columns[..if documentation { 5 } else { 4 }]);
            for entry in entries {
                if all || entry.config_source != SOURCE_DEFAULT {
                    let mut row = vec![
                        json!(entry.name),
                        json!(if entry.is_sensitive {
                            Some("***".to_owned())
                        } else {
                            entry.value
                        }),
                        json!(source(entry.config_source)),
                        json!(entry.read_only),
                    ];
                    if documentation {
                        row.push(json!(entry.documentation));
                    }
                    view.row(row);
                }
            }
            view.show(format);
            Ok(())
        }
        Verb::Set { kind, name, settings, dry_run } => {
            let change = |(name, value)| IncrementalConfig {
                name,
                config_operation: SET,
                value: Some(value),
            };
            let changes = settings.into_iter().map(change).collect();
            alter(cluster, kind, name, changes, dry_run.dry_run).await
        }
        Verb::Unset { kind, name, settings, dry_run } => {
            let change = |name| IncrementalConfig { name, config_operation: DELETE, value: None };
            let changes = settings.into_iter().map(change).collect();
            alter(cluster, kind, name, changes, dry_run.dry_run).await
        }
    }
}

fn source(code: i8) -> &'static str {
    match code {
        SOURCE_TOPIC => "topic",
        2 => "dynamic broker",
        3 => "dynamic default broker",
        4 => "broker",
        SOURCE_DEFAULT => "default",
        _ => "other",
    }
}

async fn entries(
    cluster: &mut Cluster,
    kind: Kind,
    name: &str,
    documentation: bool,
) -> Result<Vec<DescribeConfigsEntry>, String> {
    let resource = DescribeConfigsResource {
        resource_type: kind.code(),
        resource_name: name.to_owned(),
        configuration_keys: None,
    };
    let request = DescribeConfigsRequest {
        resources: vec![resource],
        include_documentation: documentation,
        ..Default::default()
    };
    let response: DescribeConfigsResponse = match broker_address(cluster, kind, name) {
        Some(address) => cluster.ask_at(&address, &request).await?,
        None => cluster.ask(&request).await?,
    };
    let result = response.results.into_iter().next();
    let result = result.ok_or("the broker said nothing of it")?;
    if result.error_code != 0 {
        return Err(refused(name, result.error_code, result.error_message.as_deref()));
    }
    Ok(result.configs)
}

/// A broker's settings are asked of that broker.
fn broker_address(cluster: &Cluster, kind: Kind, name: &str) -> Option<String> {
    let id = name.parse().ok().filter(|_| kind == Kind::Broker)?;
    cluster.address_of(id)
}

/// The settings a topic has of its own.
pub(crate) async fn own_settings(
    cluster: &mut Cluster,
    topic: &str,
) -> Result<BTreeMap<String, String>, String> {
    let entries = entries(cluster, Kind::Topic, topic, false).await?;
    let own = entries.into_iter().filter(|entry| entry.config_source == SOURCE_TOPIC);
    Ok(own.map(|entry| (entry.name, entry.value.unwrap_or_default())).collect())
}

async fn alter(
    cluster: &mut Cluster,
    kind: Kind,
    name: String,
    configs: Vec<IncrementalConfig>,
    dry_run: bool,
) -> Result<(), String> {
    let address = broker_address(cluster, kind, &name);
    let resource = IncrementalConfigsResource {
        resource_type: kind.code(),
        resource_name: name.clone(),
        configs,
    };
    let request =
        IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: dry_run };
    let response: IncrementalAlterConfigsResponse = match address {
        Some(address) => cluster.ask_at(&address, &request).await?,
        None => cluster.ask_controller(&request).await?,
    };
    let failed = |result: &AlterConfigsResourceResponse| {
        (result.error_code != 0)
            .then(|| refused(&name, result.error_code, result.error_message.as_deref()))
    };
    all_fine(response.responses.iter().filter_map(failed).collect())?;
    print(&format!("{name}: {}\n", if dry_run { "checked, not changed" } else { "changed" }));
    Ok(())
}
