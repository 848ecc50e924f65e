plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "org.hydranet.sample"
    compileSdk = 36

    defaultConfig {
        applicationId = "org.hydranet.sample"
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
    }

    androidResources {
        // Stored, not compressed: LiteRT maps the file into memory.
        noCompress += "tflite"
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

kotlin {
    jvmToolchain(17)
}

dependencies {
    // Released on 2026-10-26. For the GPU also litert-gpu of the same version.
    implementation("com.google.ai.edge.litert:litert:2.3.2")
    // Turns photographs upright.
    implementation("androidx.exifinterface:exifinterface:1.4.2")
}

// A build without the network would only fail on the phone.
val checkAssets by tasks.registering {
    val assets = layout.projectDirectory.dir("src/main/assets")
    val needed = listOf(
        "hydranet.tflite",
        "description.json",
        "labels_gender.txt",
        "labels_race.txt",
    )
    doLast {
        val missing = needed.filterNot { assets.file(it).asFile.isFile }
        if (missing.isNotEmpty()) {
            throw GradleException("README.md tells how to make $missing in $assets")
        }
    }
}

tasks.named("preBuild") { dependsOn(checkAssets) }
