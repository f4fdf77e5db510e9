//! Python programs' own places to be installed in.

use crate::steps;
use crate::steps::top;

/// A Python of its own with these packages; what it was once given stays.
pub(crate) fn install_python(name: &str, packages: &[&str]) -> Result<String, String> {
    let home = top().join("target/compat").join(name);
    let python = home.join("bin/python").display().to_string();
    let marker = home.join("installed");
    if !marker.exists() {
        steps::run("python3", &["-m", "venv", &home.display().to_string()])?;
        steps::run(&python, &[&["-m", "pip", "install", "--quiet"], packages].concat())?;
        std::fs::write(&marker, "").map_err(|error| format!("{}: {error}", marker.display()))?;
    }
    Ok(python)
}
