// Pinned on 2026-11-24; see README.md for what belongs together.
plugins {
    id("com.android.application") version "8.13.2" apply false
    id("org.jetbrains.kotlin.android") version "2.3.10" apply false
}
