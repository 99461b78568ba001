module camlistore.org

go 1.26
