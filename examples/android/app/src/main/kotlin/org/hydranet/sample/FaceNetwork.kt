package org.hydranet.sample

import android.content.Context
import android.graphics.Bitmap
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.TensorBuffer
import org.json.JSONObject
import java.io.Closeable

/**
 * The network's predictions for one face.
 *
 * They estimate what annotators saw in a picture, not facts about the person in
 * it.
 *
 * @property age in years, with decimals.
 * @property gender probabilities by class name, in the order of the file.
 * @property race probabilities by class name, in the order of the file.
 */
data class Predictions(
    val age: Float,
    val gender: Map<String, Float>,
    val race: Map<String, Float>,
)

/**
 * hydranet.tflite in the app's assets, as export.py writes it.
 *
 * Inputs and outputs are asked for by name: their order in the file is the
 * converter's and may change. Not for several threads at once.
 */
class FaceNetwork(context: Context) : Closeable {
    private val description =
        JSONObject(context.readAsset(DESCRIPTION_FILE))

    /** Side of the network's square input in pixels. */
    val imageSize: Int = description.getInt("image_size")

    private val genders = context.readLines(GENDER_LABELS)
    private val races = context.readLines(RACE_LABELS)

    private val model =
        CompiledModel.create(
            context.assets,
            MODEL_FILE,
            CompiledModel.Options(Accelerator.CPU),
        )
    private val inputs: Map<String, TensorBuffer> =
        mapOf(INPUT to model.createInputBuffer(INPUT, SIGNATURE))
    private val outputs: Map<String, TensorBuffer> =
        listOf(AGE, GENDER, RACE).associateWith { name ->
            model.createOutputBuffer(name, SIGNATURE)
        }
    private val levels = FloatArray(imageSize * imageSize * CHANNELS)

    init {
        // The int8 file takes bytes: another file than this class is written for.
        val dtype =
            description.getJSONObject("inputs").getJSONObject(INPUT).getString("dtype")
        require(dtype == "float32") {
            "expected a file that takes float32 pixels (hydranet.tflite, or the " +
                "variants float16 and dynamic); this one takes $dtype"
        }
    }

    /** Predictions for one picture, cut and resized by [FaceCrop]. */
    fun predict(picture: Bitmap): Predictions {
        FaceCrop.levels(FaceCrop.resize(FaceCrop.square(picture), imageSize), levels)
        inputs.getValue(INPUT).writeFloat(levels)
        model.run(inputs, outputs, SIGNATURE)
        return Predictions(
            age = outputs.getValue(AGE).readFloat()[0],
            gender = named(genders, outputs.getValue(GENDER).readFloat()),
            race = named(races, outputs.getValue(RACE).readFloat()),
        )
    }

    override fun close() {
        (inputs.values + outputs.values).forEach { it.close() }
        model.close()
    }

    private fun named(labels: List<String>, values: FloatArray): Map<String, Float> {
        require(labels.size == values.size) {
            "${labels.size} class names for ${values.size} predictions: the label files " +
                "are from another export"
        }
        return labels.zip(values.asIterable()).toMap()
    }

    private companion object {
        const val MODEL_FILE = "hydranet.tflite"
        const val DESCRIPTION_FILE = "description.json"
        const val GENDER_LABELS = "labels_gender.txt"
        const val RACE_LABELS = "labels_race.txt"

        const val SIGNATURE = "serving_default"
        const val INPUT = "images" // float32 [1, imageSize, imageSize, 3]
        const val AGE = "age" // float32 [1]
        const val GENDER = "gender" // float32 [1, 2]
        const val RACE = "race" // float32 [1, 5]
        const val CHANNELS = 3
    }
}

private fun Context.readAsset(name: String): String =
    assets.open(name).bufferedReader().use { it.readText() }

private fun Context.readLines(name: String): List<String> =
    readAsset(name).lines().filter { it.isNotEmpty() }
