package org.hydranet.sample

import android.app.Activity
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Matrix
import android.net.Uri
import android.os.Bundle
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView
import androidx.exifinterface.media.ExifInterface
import java.util.Locale
import java.util.concurrent.Executors

/** Asks for a picture of a face and shows what the network predicts. */
class MainActivity : Activity() {
    // One thread: the network's buffers are for one caller at a time.
    private val worker = Executors.newSingleThreadExecutor()
    private val network by lazy { FaceNetwork(applicationContext) }
    private lateinit var text: TextView

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        text = TextView(this).apply { textSize = 18f }
        val button = Button(this).apply {
            setText("Choose a picture of a face")
            setOnClickListener { choose() }
        }
        setContentView(
            LinearLayout(this).apply {
                orientation = LinearLayout.VERTICAL
                fitsSystemWindows = true
                addView(button)
                addView(text)
            },
        )
    }

    override fun onDestroy() {
        worker.execute { network.close() }
        worker.shutdown()
        super.onDestroy()
    }

    private fun choose() {
        val intent = Intent(Intent.ACTION_GET_CONTENT).setType("image/*")
        startActivityForResult(intent, CHOOSE)
    }

    @Deprecated("Kept for the sake of a sample without further libraries")
    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        super.onActivityResult(request, result, data)
        val picture = data?.data
        if (request != CHOOSE || result != RESULT_OK || picture == null) return
        worker.execute {
            val shown = runCatching { describe(network.predict(upright(picture))) }
                .getOrElse { "No prediction: ${it.message}" }
            runOnUiThread { text.text = shown }
        }
    }

    /** Decodes a picture and turns it as EXIF 2.32, 4.6.4 A says. */
    private fun upright(picture: Uri): Bitmap {
        val decoded = contentResolver.openInputStream(picture).use {
            BitmapFactory.decodeStream(it)
        } ?: error("this is no picture that Android can decode")
        val exif = contentResolver.openInputStream(picture)!!.use { ExifInterface(it) }
        val turn = Matrix().apply {
            // In this order: ExifInterface counts the rotation after the mirroring.
            if (exif.isFlipped) postScale(-1f, 1f)
            postRotate(exif.rotationDegrees.toFloat())
        }
        return Bitmap.createBitmap(
            decoded, 0, 0, decoded.width, decoded.height, turn, true,
        )
    }

    private fun describe(predictions: Predictions): String {
        fun best(of: Map<String, Float>) = of.maxBy { it.value }.let {
            String.format(Locale.ROOT, "%s (%.0f %%)", it.key, 100 * it.value)
        }
        return String.format(
            Locale.ROOT,
            "age %.1f years\ngender %s\nrace %s\n\nEstimates of what annotators " +
                "would see in this picture.",
            predictions.age,
            best(predictions.gender),
            best(predictions.race),
        )
    }

    private companion object {
        const val CHOOSE = 1
    }
}
