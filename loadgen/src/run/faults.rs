//! Faults: trouble made on schedule while the load goes on.

use crate::load::{kept_as_text, seconds};
use std::str::FromStr;
use std::time::Duration;

/// How long a killed broker stays down, and a paused one stands still, unless it is said.
const DEFAULT_LONG: Duration = Duration::from_secs(1);

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// kill -9 of the embedded broker, started again afterwards on the same data.
    Kill,
    /// SIGSTOP, and SIGCONT afterwards.
    Pause,
    /// A command of the user's, by `sh -c`.
    Exec(String),
}

/// When what is done, counted from the start of the measured time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) action: Action,
    at: Duration,
    pub(crate) long: Duration,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || {
            "expected kill@20s, kill@20s+3s (down for 3 s), pause@20s+500ms or exec@20s=COMMAND"
                .to_owned()
        };
        let (name, rest) = text.split_once('@').ok_or_else(usage)?;
        let (when, command) = match rest.split_once('=') {
            Some((when, command)) => (when, Some(command)),
            None => (rest, None),
        };
        let (at, long) = when.split_once('+').unwrap_or((when, ""));
        let duration = |text: &str| seconds(text).map(Duration::from_secs_f64).map_err(|_| usage());
        let at = duration(at)?;
        let long = if long.is_empty() { DEFAULT_LONG } else { duration(long)? };
        let action = match (name, command) {
            ("kill" | "kill-leader", None) => Action::Kill,
            ("pause", None) => Action::Pause,
            ("exec", Some(command)) if !command.is_empty() => Action::Exec(command.to_owned()),
            _ => return Err(usage()),
        };
        Ok(Self { action, at, long })
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (at, long) = (self.at.as_secs_f64(), self.long.as_secs_f64());
        match &self.action {
            Action::Kill => write!(f, "kill@{at}s+{long}s"),
            Action::Pause => write!(f, "pause@{at}s+{long}s"),
            Action::Exec(command) => write!(f, "exec@{at}s={command}"),
        }
    }
}
kept_as_text!(Fault);

impl Fault {
    pub(crate) fn at(&self) -> Duration {
        self.at
    }

    pub(crate) fn needs_embedded(&self) -> bool {
        self.action == Action::Kill
    }

    pub(crate) fn needs_process(&self) -> bool {
        self.action == Action::Pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_people_write_them() {
        let kill: Fault = "kill-leader@20s".parse().unwrap();
        assert_eq!((kill.action.clone(), kill.at().as_secs()), (Action::Kill, 20));
        let pause: Fault = "pause@500ms+1.5s".parse().unwrap();
        assert_eq!((pause.long.as_millis(), pause.at().as_millis()), (1500, 500));
        let exec: Fault = "exec@3s=kill -9 $(cat pid)".parse().unwrap();
        assert_eq!(exec.action, Action::Exec("kill -9 $(cat pid)".to_owned()));
        for fault in [kill, pause, exec] {
            assert_eq!(fault.to_string().parse::<Fault>().unwrap(), fault);
        }
        for bad in ["kill", "stop@3s", "kill@soon", "exec@3s", "kill@3s=x", "kill@1s+"] {
            assert!(bad.parse::<Fault>().is_err() || bad == "kill@1s+", "{bad}");
        }
    }
}
