//! How the program ends, and why.

/// How a run ended, as the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Fine = 0,
    BadUsage = 1,
    ObjectiveMissed = 2,
    RecordsLostOrRepeated = 3,
    Invalid = 4,
    Unreachable = 5,
    Regression = 6,
    Inconclusive = 7,
    Interrupted = 130,
}

impl Ending {
    pub(crate) const ALL: [Self; 9] = [
        Self::Fine,
        Self::BadUsage,
        Self::ObjectiveMissed,
        Self::RecordsLostOrRepeated,
        Self::Invalid,
        Self::Unreachable,
        Self::Regression,
        Self::Inconclusive,
        Self::Interrupted,
    ];

    /// The ending with this exit code.
    pub(crate) fn of(code: i32) -> Self {
        Self::ALL.into_iter().find(|ending| *ending as i32 == code).unwrap_or(Self::Invalid)
    }

    /// The last line of a report.
    pub(crate) fn verdict(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::BadUsage => "BAD USAGE",
            Self::ObjectiveMissed => "OBJECTIVE MISSED",
            Self::RecordsLostOrRepeated => "RECORDS LOST, REPEATED, REORDERED OR DAMAGED",
            Self::Invalid => "INVALID RUN",
            Self::Unreachable => "THE CLUSTER DOES NOT ANSWER",
            Self::Regression => "REGRESSION",
            Self::Inconclusive => "AN OBJECTIVE CANNOT BE JUDGED",
            Self::Interrupted => "interrupted; the figures cover what ran",
        }
    }
}

/// An error that ends the program: what went wrong and how it exits.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) ending: Ending,
    pub(crate) why: String,
}

impl Failure {
    pub(crate) fn unreachable(why: impl Into<String>) -> Self {
        Self { ending: Ending::Unreachable, why: why.into() }
    }

    /// Of a command line that is not understood.
    pub(crate) fn of_clap(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        Self::usage(text.strip_prefix("error: ").unwrap_or(&text))
    }

    pub(crate) fn usage(why: impl Into<String>) -> Self {
        Self { ending: Ending::BadUsage, why: why.into() }
    }
}
