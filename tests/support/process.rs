//! Programs that tests start, and end.

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running program whose output goes to a file. It ends with its owner.
pub struct Process {
    child: Child,
    pub name: String,
    pub log: PathBuf,
    called: Called,
}

/// How a program was called.
struct Called {
    program: OsString,
    args: Vec<OsString>,
    /// What is set, or not, in its environment and not in ours.
    envs: Vec<(OsString, Option<OsString>)>,
}

impl Process {
    pub fn start(name: &str, logs: &Path, command: &mut Command) -> Self {
        let log = logs.join(format!("{name}.log"));
        let child = spawn(&log, command);
        let called = Called {
            program: command.get_program().to_owned(),
            args: command.get_args().map(Into::into).collect(),
            envs: command.get_envs().map(|(key, value)| (key.to_owned(), value.map(Into::into))).collect(),
        };
        Self { child, name: name.to_owned(), log, called }
    }

    /// Starts the program again as it was started before, once it has ended.
    pub fn start_again(&mut self) {
        assert!(self.child.try_wait().unwrap().is_some(), "{} still runs", self.name);
        let mut command = Command::new(&self.called.program);
        command.args(&self.called.args);
        for (key, value) in &self.called.envs {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        self.child = spawn(&self.log, &mut command);
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the program has written so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `Err` with its last words if the program has ended.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait().unwrap() {
            None => Ok(()),
            Some(status) => Err(format!("{} ended with {status}:\n{}", self.name, self.tail())),
        }
    }

    fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// SIGKILL: no chance to tidy up.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGSTOP or SIGCONT: it stands still, as if its machine did, or goes on.
    pub fn pause(&self, is_paused: bool) {
        self.signal(if is_paused { "STOP" } else { "CONT" });
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().unwrap();
        assert!(sent.success(), "cannot send SIG{name} to {}", self.name);
    }

    /// SIGINT, as Ctrl-C sends it; waits for the end and returns the exit status.
    pub fn interrupt(&mut self) -> std::process::ExitStatus {
        self.signal("INT");
        super::eventually(&format!("{} ends after SIGINT", self.name), || {
            self.child.try_wait().unwrap().ok_or("still running")
        })
    }
}

fn spawn(log: &Path, command: &mut Command) -> Child {
    let out = File::options().create(true).append(true).open(log).unwrap();
    let err = out.try_clone().unwrap();
    let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
    child.unwrap_or_else(|e| panic!("cannot start {:?}: {e}", command.get_program()))
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the last lines of {}:\n{}", self.name, self.tail());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
