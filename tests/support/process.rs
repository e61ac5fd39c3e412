//! Programs that tests start, and end.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running program whose output goes to a file. It ends with its owner.
pub struct Process {
    child: Child,
    pub name: String,
    pub log: PathBuf,
}

impl Process {
    pub fn start(name: &str, logs: &Path, command: &mut Command) -> Self {
        let log = logs.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let err = out.try_clone().unwrap();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child =
            child.unwrap_or_else(|e| panic!("cannot start {name} ({:?}): {e}", command.get_program()));
        Self { child, name: name.to_owned(), log }
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

    /// SIGINT, as Ctrl-C sends it; waits for the end and returns the exit status.
    pub fn interrupt(&mut self) -> std::process::ExitStatus {
        let sent = Command::new("kill").args(["-INT", &self.id().to_string()]).status().unwrap();
        assert!(sent.success(), "cannot send SIGINT to {}", self.name);
        super::eventually(&format!("{} ends after SIGINT", self.name), || {
            self.child.try_wait().unwrap().ok_or("still running")
        })
    }
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
